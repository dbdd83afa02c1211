#include "similarity_cpu.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "simd.hpp"

#if defined(LMC_X86)
#include <immintrin.h>
#endif

namespace lmc {

namespace {

constexpr std::int64_t depth = 256;         // products of a panel summed in registers
constexpr std::int64_t block_units = 240;   // units of A packed at a time
constexpr std::int64_t block_columns = 768; // units of B packed at a time
constexpr std::int64_t line = 64;
constexpr double products_per_thread = 1.2e7; // below it a thread costs more than it brings

// The register tile of each instruction set: ROWS units of A against COLUMNS units of B.
template <class T, int BYTES, int ROWS_> struct Tile {
  using Vector __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias)) = T;
  static constexpr int rows = ROWS_;
  static constexpr int lanes = BYTES / static_cast<int>(sizeof(T));
  static constexpr int columns = 2 * lanes;
  static constexpr bool wide = BYTES > 16;
};

// Consecutive products of the sum: rows [row, row_end) with k in [k, k_end) each.
struct Span {
  std::int64_t row;
  std::int64_t row_end;
  std::int64_t k;
  std::int64_t k_end;
  [[nodiscard]] std::int64_t size() const { return (row_end - row) * (k_end - k); }
};

// Numbers from one panel to the next: a line more than it holds, for stores wider than a panel.
std::int64_t panel_size(std::int64_t products, std::int64_t width) {
  return (products * width + line / 4 - 1) / (line / 4) * (line / 4) + line / 4;
}

struct Rectangle {
  std::int64_t row;
  std::int64_t row_end;
  std::int64_t column;
  std::int64_t column_end;
};

#if defined(LMC_X86)
// Eight units' runs of `count` contiguous numbers, transposed: out[k * width + u]. Units from
// `valid` on are zero. Writes eight numbers a step, so narrower panels overlap: call in order.
__attribute__((target("avx2"))) void transpose_run(const float *source, std::int64_t stride,
                                                   std::int64_t valid, std::int64_t count,
                                                   std::int64_t width, float *out) {
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    __m256 x[8];
    for (int u = 0; u < 8; ++u) {
      x[u] = u < valid ? _mm256_loadu_ps(source + u * stride + k) : _mm256_setzero_ps();
    }
    __m256 y[8];
    for (int u = 0; u < 8; u += 2) {
      y[u] = _mm256_unpacklo_ps(x[u], x[u + 1]);
      y[u + 1] = _mm256_unpackhi_ps(x[u], x[u + 1]);
    }
    for (int u = 0; u < 8; u += 4) {
      x[u] = _mm256_shuffle_ps(y[u], y[u + 2], 0x44);
      x[u + 1] = _mm256_shuffle_ps(y[u], y[u + 2], 0xEE);
      x[u + 2] = _mm256_shuffle_ps(y[u + 1], y[u + 3], 0x44);
      x[u + 3] = _mm256_shuffle_ps(y[u + 1], y[u + 3], 0xEE);
    }
    for (int u = 0; u < 4; ++u) {
      _mm256_storeu_ps(out + (k + u) * width, _mm256_permute2f128_ps(x[u], x[u + 4], 0x20));
    }
    for (int u = 0; u < 4; ++u) {
      _mm256_storeu_ps(out + (k + u + 4) * width, _mm256_permute2f128_ps(x[u], x[u + 4], 0x31));
    }
  }
  for (; k < count; ++k) {
    const std::int64_t stored = std::min<std::int64_t>(8, width);
    for (std::int64_t u = 0; u < stored; ++u) {
      out[k * width + u] = u < valid ? source[u * stride + k] : 0.0F;
    }
  }
}
#endif

// out[k * WIDTH + u] for `count` products of units [0, valid) from `from` on, zero up to WIDTH.
template <class T, int WIDTH, bool WIDE>
LMC_INLINE void pack_run(const UnitRows<T> &source, const T *from, std::int64_t valid,
                         std::int64_t count, T *out) {
#if defined(LMC_X86)
  if constexpr (WIDE && std::is_same_v<T, float>) {
    if (source.block_stride == 1 && count >= 8) {
      for (std::int64_t u = 0; u < WIDTH; u += 8) {
        transpose_run(from + u * source.unit_stride, source.unit_stride, valid - u, count, WIDTH,
                      out + u);
      }
      return;
    }
  }
#endif
  for (std::int64_t k = 0; k < count; ++k) {
    const T *const at = from + k * source.block_stride;
    T *const to = out + k * WIDTH;
    if (valid >= WIDTH && source.unit_stride == 1) {
      for (int u = 0; u < WIDTH; ++u) {
        to[u] = at[u];
      }
    } else {
      for (int u = 0; u < WIDTH; ++u) {
        to[u] = u < valid ? at[u * source.unit_stride] : T{0};
      }
    }
  }
}

// Panels of WIDTH units, `panel_size` apart: out[t * WIDTH + u] holds product t of the span.
template <class T, int WIDTH, bool WIDE>
LMC_INLINE void pack(const UnitRows<T> &source, const std::int64_t *index, std::int64_t block,
                     const Span &span, std::int64_t unit, std::int64_t units, T *out) {
  const std::int64_t panel = panel_size(span.size(), WIDTH);
  const T *const first = source.data + unit * source.unit_stride;
  if (index == nullptr && source.row_stride == block * source.block_stride) {
    // The span is one run of every unit.
    const T *const from = first + (span.row * block + span.k) * source.block_stride;
    for (std::int64_t u = 0; u < units; u += WIDTH, out += panel) {
      pack_run<T, WIDTH, WIDE>(source, from + u * source.unit_stride, units - u, span.size(), out);
    }
    return;
  }
  const std::int64_t count = span.k_end - span.k;
  const auto run = [&](std::int64_t row) {
    return first + source_row(index, row) * source.row_stride + span.k * source.block_stride;
  };
  // Memory is read in the order of its addresses.
  if (source.unit_stride < source.row_stride) {
    for (std::int64_t row = span.row; row < span.row_end; ++row, out += count * WIDTH) {
      T *to = out;
      for (std::int64_t u = 0; u < units; u += WIDTH, to += panel) {
        pack_run<T, WIDTH, WIDE>(source, run(row) + u * source.unit_stride, units - u, count, to);
      }
    }
    return;
  }
  for (std::int64_t u = 0; u < units; u += WIDTH, out += panel) {
    T *to = out;
    for (std::int64_t row = span.row; row < span.row_end; ++row, to += count * WIDTH) {
      pack_run<T, WIDTH, WIDE>(source, run(row) + u * source.unit_stride, units - u, count, to);
    }
  }
}

template <class T, class Shape>
LMC_INLINE void multiply(const T *a, const T *b, std::int64_t count, T *similarity,
                         std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  using Vector = typename Shape::Vector;
  Vector total[Shape::rows][2] = {};
  for (std::int64_t t = 0; t < count; ++t) {
    const Vector left = *reinterpret_cast<const Vector *>(b + t * Shape::columns);
    const Vector right = *reinterpret_cast<const Vector *>(b + t * Shape::columns + Shape::lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Shape::rows; ++i) {
      const T value = a[t * Shape::rows + i];
      total[i][0] += value * left;
      total[i][1] += value * right;
    }
  }
  if (rows == Shape::rows && columns == Shape::columns) {
#pragma GCC unroll 8
    for (int i = 0; i < Shape::rows; ++i) {
      auto *const out = reinterpret_cast<Vector *>(similarity + i * stride);
      auto *const more = reinterpret_cast<Vector *>(similarity + i * stride + Shape::lanes);
      *out += total[i][0];
      *more += total[i][1];
    }
    return;
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const T *const sums = reinterpret_cast<const T *>(&total[i][0]);
    for (std::int64_t j = 0; j < columns; ++j) {
      similarity[i * stride + j] += sums[j];
    }
  }
}

// Asks for what a span takes of one unit, so that packing finds it near.
template <class T>
LMC_INLINE void fetch(const UnitRows<T> &source, const std::int64_t *index, const Span &span,
                      std::int64_t unit) {
  constexpr auto numbers = line / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t count = span.k_end - span.k;
  const T *const first = source.data + unit * source.unit_stride + span.k * source.block_stride;
  if (index == nullptr && source.row_stride == count) {
    const T *const from = first + span.row * source.row_stride;
    for (std::int64_t k = 0; k < span.size(); k += numbers) {
      __builtin_prefetch(from + k, 0, 2);
    }
    return;
  }
  for (std::int64_t row = span.row; row < span.row_end; ++row) {
    const T *const from = first + source_row(index, row) * source.row_stride;
    __builtin_prefetch(from, 0, 2);
    if (count > 1) {
      __builtin_prefetch(from + (count - 1) * source.block_stride, 0, 2);
    }
  }
}

// Fetches for the span after it, if any, while it multiplies.
template <class T, class Shape>
LMC_INLINE void add_span(const ProductSum<T> &sum, const Span &span, const Span &next,
                         const Rectangle &part, T *packed_a, T *packed_b, T *similarity,
                         std::int64_t stride) {
  constexpr int rows = Shape::rows;
  constexpr int columns = Shape::columns;
  const std::int64_t count = span.size();
  const std::int64_t panel_a = panel_size(count, rows);
  const std::int64_t panel_b = panel_size(count, columns);
  const std::int64_t width = part.column_end - part.column;
  const std::int64_t all_rows = part.row_end - part.row;
  const std::int64_t tiles = (all_rows + rows - 1) / rows * ((width + columns - 1) / columns);
  std::int64_t tile = 0;
  pack<T, columns, Shape::wide>(sum.b, sum.rows_b, sum.block, span, part.column, width, packed_b);
  if (sum.rows_last != nullptr) {
    // The buffer of A is free until its first panel.
    for (std::int64_t j = 0; j < width; j += columns) {
      pack<T, columns, Shape::wide>(sum.b, sum.rows_last, sum.block, span, part.column + j,
                                    std::min<std::int64_t>(columns, width - j), packed_a);
      T *const panel = packed_b + j / columns * panel_b;
      for (std::int64_t i = 0; i < count * columns; ++i) {
        panel[i] -= packed_a[i];
      }
    }
  }
  for (std::int64_t block = part.row; block < part.row_end; block += block_units) {
    const std::int64_t height = std::min(block_units, part.row_end - block);
    pack<T, rows, Shape::wide>(sum.a, sum.rows_a, sum.block, span, block, height, packed_a);
    for (std::int64_t j = 0; j < width; j += columns) {
      for (std::int64_t i = 0; i < height; i += rows, ++tile) {
        for (std::int64_t u = tile * width / tiles; u < (tile + 1) * width / tiles; ++u) {
          fetch(sum.b, sum.rows_b, next, part.column + u);
        }
        for (std::int64_t u = tile * all_rows / tiles; u < (tile + 1) * all_rows / tiles; ++u) {
          fetch(sum.a, sum.rows_a, next, part.row + u);
        }
        multiply<T, Shape>(packed_a + i / rows * panel_a, packed_b + j / columns * panel_b, count,
                           similarity + (block + i) * stride + part.column + j, stride,
                           std::min<std::int64_t>(rows, height - i),
                           std::min<std::int64_t>(columns, width - j));
      }
    }
  }
}

// The span that begins there, empty at the end of the sum.
template <class T> Span span_at(const ProductSum<T> &sum, std::int64_t row, std::int64_t k) {
  const std::int64_t whole_rows = std::max<std::int64_t>(1, depth / sum.block);
  return {row, std::min(row + whole_rows, sum.rows), k, std::min(k + depth, sum.block)};
}

// Every span of the sum in one rectangle of the matrix. The packed buffers are as in
// `add_products`.
template <class T, class Shape>
LMC_INLINE void add_rectangle(const ProductSum<T> &sum, const Rectangle &part, T *packed_a,
                              T *packed_b, T *similarity, std::int64_t stride) {
  for (std::int64_t j = part.column; j < part.column_end; j += block_columns) {
    const Rectangle strip{part.row, part.row_end, j, std::min(j + block_columns, part.column_end)};
    Span span = span_at(sum, 0, 0);
    while (span.size() > 0) {
      const Span next = span.k_end < sum.block ? span_at(sum, span.row, span.k_end)
                                               : span_at(sum, span.row_end, 0);
      add_span<T, Shape>(sum, span, next, strip, packed_a, packed_b, similarity, stride);
      span = next;
    }
  }
}

template <class T>
using Worker = void (*)(const ProductSum<T> &, const Rectangle &, T *, T *, T *, std::int64_t);

template <class T>
void with_baseline(const ProductSum<T> &sum, const Rectangle &part, T *a, T *b, T *similarity,
                   std::int64_t stride) {
  add_rectangle<T, Tile<T, 16, 4>>(sum, part, a, b, similarity, stride);
}

#if defined(LMC_X86)
template <class T>
__attribute__((target("avx2,fma"))) void with_avx2(const ProductSum<T> &sum, const Rectangle &part,
                                                   T *a, T *b, T *similarity, std::int64_t stride) {
  add_rectangle<T, Tile<T, 32, 6>>(sum, part, a, b, similarity, stride);
}

template <class T>
__attribute__((target("avx512f,avx2,fma"))) void with_avx512(const ProductSum<T> &sum,
                                                             const Rectangle &part, T *a, T *b,
                                                             T *similarity, std::int64_t stride) {
  add_rectangle<T, Tile<T, 64, 8>>(sum, part, a, b, similarity, stride);
}
#endif

template <class T> Worker<T> worker(int instruction_set) {
#if defined(LMC_X86)
  constexpr Worker<T> workers[instruction_sets] = {with_baseline<T>, with_avx2<T>, with_avx512<T>};
  return workers[std::clamp(instruction_set, 0, best_instruction_set())];
#else
  return instruction_set >= 0 ? with_baseline<T> : nullptr;
#endif
}

// Grows to the largest request of the calling thread and stays: fresh pages cost more than packing.
template <class T> T *workspace(std::int64_t size) {
  thread_local std::vector<T> buffer;
  buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(size + line)));
  void *start = buffer.data();
  std::size_t space = buffer.size() * sizeof(T);
  return static_cast<T *>(std::align(line, 1, start, space));
}

} // namespace

template <class T>
void add_products(const std::vector<ProductSum<T>> &sums, std::int64_t units, T *similarity,
                  int instruction_set, int threads) {
  const std::int64_t n = units;
  std::int64_t length = 0;
  for (const ProductSum<T> &sum : sums) {
    length += sum.rows * sum.block;
  }
  if (n == 0 || length == 0) {
    return;
  }
  const double products =
      static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(length);
  threads = std::min(threads, static_cast<int>(std::min(1e6, products / products_per_thread)));
  threads = std::max(1, threads);
  const auto down = static_cast<std::int64_t>(std::sqrt(static_cast<double>(threads)));
  const std::int64_t across = (threads + down - 1) / down;
  // Multiples of every tile, so that only the matrix's own edge is ragged.
  const std::int64_t height = rounded_up((n + down - 1) / down, 24);
  const std::int64_t width = rounded_up((n + across - 1) / across, 32);
  const std::int64_t strips = (n + width - 1) / width;
  const std::int64_t pieces = strips * ((n + height - 1) / height);
  const Worker<T> work = worker<T>(instruction_set);
  // Four is the narrowest panel.
  const std::int64_t size_a = block_units / 4 * panel_size(depth, 4);
  const std::int64_t size = size_a + std::min(width, block_columns) / 4 * panel_size(depth, 4);
  T *const packed = workspace<T>(pieces * size);
  parallel_for(pieces, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t row = piece / strips * height;
      const std::int64_t column = piece % strips * width;
      T *const own = packed + piece * size;
      const Rectangle part{row, std::min(row + height, n), column, std::min(column + width, n)};
      for (const ProductSum<T> &sum : sums) {
        work(sum, part, own, own + size_a, similarity, n);
      }
    }
  });
}

template void add_products(const std::vector<ProductSum<float>> &, std::int64_t, float *, int, int);
template void add_products(const std::vector<ProductSum<double>> &, std::int64_t, double *, int,
                           int);

} // namespace lmc
