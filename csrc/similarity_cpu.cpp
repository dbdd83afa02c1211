#include "similarity_cpu.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "similarity_division.hpp"
#include "similarity_pack.hpp"

namespace lmc {

namespace {

constexpr std::int64_t depth = 256;           // products of a panel summed in registers
constexpr std::int64_t block_units = 240;     // units of A packed at a time
constexpr std::int64_t block_columns = 768;   // units of B packed at a time
constexpr double products_per_thread = 1.2e7; // below it a thread costs more than it brings

// The register tile of each instruction set: ROWS units of A against COLUMNS units of B.
template <class T, int BYTES, int ROWS_> struct Tile {
  using Vector __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias)) = T;
  static constexpr int rows = ROWS_;
  static constexpr int lanes = BYTES / static_cast<int>(sizeof(T));
  static constexpr int columns = 2 * lanes;
  static constexpr bool wide = BYTES > 16;
};

// A tile of sums over `count` packed products, written or added to `rows` by `columns` of `out`.
template <class T, class Shape>
LMC_INLINE void multiply(const T *a, const T *b, std::int64_t count, bool add, T *out,
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
#pragma GCC unroll 8
  for (int i = 0; i < Shape::rows; ++i) {
    if (i >= rows) {
      return;
    }
    T *const at = out + i * stride;
    if (columns == Shape::columns) {
      auto *const first = reinterpret_cast<Vector *>(at);
      auto *const second = reinterpret_cast<Vector *>(at + Shape::lanes);
      *first = add ? *first + total[i][0] : total[i][0];
      *second = add ? *second + total[i][1] : total[i][1];
      continue;
    }
    for (std::int64_t j = 0; j < columns; ++j) {
      const T sum = total[i][j / Shape::lanes][j % Shape::lanes];
      at[j] = add ? at[j] + sum : sum;
    }
  }
}

// Fetches for the slice after it while it multiplies.
template <class T, class Shape>
LMC_INLINE void add_slice(const Slice<T> &slice, const Slice<T> &next, const Rectangle &part,
                          T *packed_a, T *packed_b, const Target<T> &target) {
  constexpr int rows = Shape::rows;
  constexpr int columns = Shape::columns;
  const std::int64_t panel_a = panel_size(slice.size, rows);
  const std::int64_t panel_b = panel_size(slice.size, columns);
  const std::int64_t width = part.column_end - part.column;
  const std::int64_t all_rows = part.row_end - part.row;
  const std::int64_t tiles = (all_rows + rows - 1) / rows * ((width + columns - 1) / columns);
  std::int64_t tile = 0;
  pack<T, columns, Shape::wide>(slice, operand_b<T>, part.column, width, packed_b);
  for (std::int64_t block = part.row; block < part.row_end; block += block_units) {
    const std::int64_t height = std::min(block_units, part.row_end - block);
    pack<T, rows, Shape::wide>(slice, operand_a<T>, block, height, packed_a);
    for (std::int64_t j = 0; j < width; j += columns) {
      for (std::int64_t i = 0; i < height; i += rows, ++tile) {
        for (std::int64_t u = tile * width / tiles; u < (tile + 1) * width / tiles; ++u) {
          fetch(next, operand_b<T>, part.column + u);
        }
        for (std::int64_t u = tile * all_rows / tiles; u < (tile + 1) * all_rows / tiles; ++u) {
          fetch(next, operand_a<T>, part.row + u);
        }
        multiply<T, Shape>(
            packed_a + i / rows * panel_a, packed_b + j / columns * panel_b, slice.size, target.add,
            target.data + (block + i) * target.stride + part.column + j, target.stride,
            std::min<std::int64_t>(rows, height - i), std::min<std::int64_t>(columns, width - j));
      }
    }
  }
}

// False if interrupted.
template <class T, class Shape>
LMC_INLINE bool run(const Task<T> &task, const std::function<bool()> &interrupted) {
  const Slice<T> none;
  for (std::int64_t j = task.part.column; j < task.part.column_end; j += block_columns) {
    const Rectangle strip{task.part.row, task.part.row_end, j,
                          std::min(j + block_columns, task.part.column_end)};
    Target<T> target = task.target;
    for (const Slice<T> *slice = task.first; slice != task.end; ++slice) {
      if (interrupted()) {
        return false;
      }
      const Slice<T> &next = slice + 1 == task.last ? none : slice[1];
      add_slice<T, Shape>(*slice, next, strip, task.packed_a, task.packed_b, target);
      target.add = true;
    }
  }
  return true;
}

template <class T>
bool with_baseline(const Task<T> &task, const std::function<bool()> &interrupted) {
  return run<T, Tile<T, 16, 4>>(task, interrupted);
}

#if defined(LMC_X86)
template <class T>
__attribute__((target("avx2,fma"))) bool with_avx2(const Task<T> &task,
                                                   const std::function<bool()> &interrupted) {
  return run<T, Tile<T, 32, 6>>(task, interrupted);
}

template <class T>
__attribute__((target("avx512f,avx2,fma"))) bool
with_avx512(const Task<T> &task, const std::function<bool()> &interrupted) {
  return run<T, Tile<T, 64, 8>>(task, interrupted);
}
#endif

template <class T>
constexpr Worker<T> workers[] = {
    with_baseline<T>,
#if defined(LMC_X86)
    with_avx2<T>,
    with_avx512<T>,
#endif
};

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
bool add_products(const std::vector<SimilarityUpdate<T>> &updates, int instruction_set, int threads,
                  const std::function<bool()> &interrupted) {
  double products = 0;
  for (const SimilarityUpdate<T> &update : updates) {
    for (const ProductSum<T> &sum : update.sums) {
      products += static_cast<double>(update.units * update.units) *
                  static_cast<double>(sum.rows * sum.block);
    }
  }
  threads = std::min(threads, static_cast<int>(std::min(1e6, products / products_per_thread)));
  std::deque<Division<T>> divisions;
  std::vector<std::int64_t> begins{0};
  std::int64_t width = 0;
  for (const SimilarityUpdate<T> &update : updates) {
    const Division<T> &division = divisions.emplace_back(update, depth, std::max(1, threads));
    begins.push_back(begins.back() + division.pieces());
    if (update.afresh && division.pieces() == 0) {
      std::fill_n(update.similarity, update.units * update.units, T{0});
    }
    width = std::max(width, std::min(division.width(), block_columns));
  }
  threads = static_cast<int>(std::clamp<std::int64_t>(begins.back(), 1, std::max(1, threads)));
  const Worker<T> work = variant(workers<T>, instruction_set);
  // Four is the narrowest panel.
  const std::int64_t size_a = block_units / 4 * panel_size(depth, 4);
  const std::int64_t size = size_a + width / 4 * panel_size(depth, 4);
  T *const packed = workspace<T>(threads * size);
  Buffers<T> buffers;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> complete{true};
  parallel_for(
      threads, 1, threads,
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t thread = begin; thread < end; ++thread) {
          T *const own = packed + thread * size;
          for (std::int64_t i = next++; i < begins.back() && complete; i = next++) {
            const auto at = std::upper_bound(begins.begin(), begins.end(), i) - begins.begin() - 1;
            const auto which = static_cast<std::size_t>(at);
            if (!divisions[which].run(i - begins[which], work, buffers, own, own + size_a,
                                      interrupted)) {
              complete = false;
            }
          }
        }
      },
      [&] { interrupted(); });
  return complete;
}

template bool add_products(const std::vector<SimilarityUpdate<float>> &, int, int,
                           const std::function<bool()> &);
template bool add_products(const std::vector<SimilarityUpdate<double>> &, int, int,
                           const std::function<bool()> &);

} // namespace lmc
