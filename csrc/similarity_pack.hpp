// Operands of similarity products, put in the order that their kernel reads them. Included by that
// kernel alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "simd.hpp"
#include "similarity_cpu.hpp"

namespace lmc {

// Consecutive products of one sum: rows [row, row_end) with k in [k, k_end) each.
template <class T> struct Span {
  const ProductSum<T> *sum;
  std::int64_t row, row_end, k, k_end;

  [[nodiscard]] std::int64_t size() const { return (row_end - row) * (k_end - k); }
};

// Products that are packed together.
template <class T> struct Slice {
  std::vector<Span<T>> spans;
  std::int64_t size = 0;
};

// One side of a sum: row t is row rows[t] of the source, less row last[t] where there is one.
template <class T> struct Operand {
  const UnitRows<T> &source;
  const std::int64_t *rows;
  const std::int64_t *last;
};

template <class T> Operand<T> operand_a(const ProductSum<T> &sum) {
  return {sum.a, sum.rows_a, nullptr};
}
template <class T> Operand<T> operand_b(const ProductSum<T> &sum) {
  return {sum.b, sum.rows_b, sum.rows_last};
}

// Products of all sums in slices of at most `size`. A row that fits is in one slice.
template <class T>
std::vector<Slice<T>> slices_of(const std::vector<ProductSum<T>> &sums, std::int64_t size) {
  std::vector<Slice<T>> slices;
  for (const ProductSum<T> &sum : sums) {
    std::int64_t row = 0;
    std::int64_t k = 0;
    while (row < sum.rows && sum.block > 0) {
      const std::int64_t room = slices.empty() ? 0 : size - slices.back().size;
      if (room < std::min(size, sum.block - k)) {
        slices.emplace_back();
        continue;
      }
      Span<T> span{&sum, row, row + 1, k, std::min(k + size, sum.block)};
      if (sum.block <= room) {
        span.row_end = std::min(row + room / sum.block, sum.rows);
      }
      slices.back().spans.push_back(span);
      slices.back().size += span.size();
      k = span.k_end % sum.block;
      row = k == 0 ? span.row_end : row;
    }
  }
  return slices;
}

constexpr std::int64_t line = 64;

// Numbers from one panel to the next: a line more than it holds, for stores wider than a panel.
inline std::int64_t panel_size(std::int64_t products, std::int64_t width) {
  return rounded_up(products * width, line / 4) + line / 4;
}

// out[k * WIDTH + i] = from[i * stride + k], less the same of `last` if LESS_LAST, for `count`
// products of eight units, zero from `valid` of them on. Stores eight numbers a product.
template <int WIDTH, bool LESS_LAST, bool WHOLE>
LMC_INLINE void pack_eight(const float *from, const float *last, std::int64_t stride,
                           std::int64_t valid, std::int64_t count, float *out) {
  const auto number = [&](std::int64_t i, std::int64_t k) LMC_INLINED {
    if (!WHOLE && i >= valid) {
      return 0.0F;
    }
    return LESS_LAST ? from[i * stride + k] - last[i * stride + k] : from[i * stride + k];
  };
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    Floats x[8] = {};
    for (int i = 0; i < 8; ++i) {
      if (WHOLE || i < valid) {
        x[i] = load(from + i * stride + k);
        if (LESS_LAST) {
          x[i] -= load(last + i * stride + k);
        }
      }
    }
    transpose(x);
    for (int i = 0; i < 8; ++i) {
      store(out + (k + i) * WIDTH) = x[i];
    }
  }
  for (; k < count; ++k) {
    store(out + k * WIDTH) = Floats{number(0, k), number(1, k), number(2, k), number(3, k),
                                    number(4, k), number(5, k), number(6, k), number(7, k)};
  }
}

// out[k * WIDTH + u] = from[u * unit_stride + k * block_stride], less the same of `last` if
// LESS_LAST, for `count` products of units [0, valid), zero up to WIDTH. Where WIDE eight units
// are stored at a time, so narrower panels overlap: call in order.
template <class T, int WIDTH, bool WIDE, bool LESS_LAST>
LMC_INLINE void pack_run(const UnitRows<T> &source, const T *from, const T *last,
                         std::int64_t valid, std::int64_t count, T *out) {
  if constexpr (WIDE && std::is_same_v<T, float>) {
    if (source.block_stride == 1 && count >= 8) {
      for (std::int64_t u = 0; u < WIDTH; u += 8) {
        const std::int64_t offset = u * source.unit_stride;
        const T *const other = LESS_LAST ? last + offset : nullptr;
        if (valid - u >= 8) {
          pack_eight<WIDTH, LESS_LAST, true>(from + offset, other, source.unit_stride, 8, count,
                                             out + u);
        } else {
          pack_eight<WIDTH, LESS_LAST, false>(from + offset, other, source.unit_stride, valid - u,
                                              count, out + u);
        }
      }
      return;
    }
  }
  const auto number = [&](std::int64_t at)
                          LMC_INLINED { return LESS_LAST ? from[at] - last[at] : from[at]; };
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t at = k * source.block_stride;
    T *const to = out + k * WIDTH;
    if (valid >= WIDTH && source.unit_stride == 1) {
      for (int u = 0; u < WIDTH; ++u) {
        to[u] = number(at + u);
      }
    } else {
      for (int u = 0; u < WIDTH; ++u) {
        to[u] = u < valid ? number(at + u * source.unit_stride) : T{0};
      }
    }
  }
}

// Panels of WIDTH units, `panel` numbers apart: out[t * WIDTH + u] holds product t of the span.
template <class T, int WIDTH, bool WIDE, bool LESS_LAST>
LMC_INLINE void pack_span(const Operand<T> &operand, const Span<T> &span, std::int64_t unit,
                          std::int64_t units, std::int64_t panel, T *out) {
  const UnitRows<T> &source = operand.source;
  const T *const first = source.data + unit * source.unit_stride + span.k * source.block_stride;
  const auto run = [&](const std::int64_t *index, std::int64_t row) {
    return first + source_row(index, row) * source.row_stride;
  };
  std::int64_t rows = span.row_end - span.row;
  std::int64_t count = span.k_end - span.k;
  if (operand.rows == nullptr && !LESS_LAST && source.row_stride == count * source.block_stride) {
    // The span is one run of every unit.
    count *= rows;
    rows = 1;
  }
  const auto pack_at = [&](std::int64_t t, std::int64_t u, auto length) LMC_INLINED {
    const std::int64_t row = span.row + t;
    const std::int64_t offset = u * source.unit_stride;
    pack_run<T, WIDTH, WIDE, LESS_LAST>(source, run(operand.rows, row) + offset,
                                        LESS_LAST ? run(operand.last, row) + offset : nullptr,
                                        units - u, length,
                                        out + u / WIDTH * panel + t * length * WIDTH);
  };
  // Memory is read in the order of its addresses.
  const auto pack_all = [&](auto length) LMC_INLINED {
    if (source.unit_stride < source.row_stride) {
      for (std::int64_t t = 0; t < rows; ++t) {
        for (std::int64_t u = 0; u < units; u += WIDTH) {
          pack_at(t, u, length);
        }
      }
    } else {
      for (std::int64_t u = 0; u < units; u += WIDTH) {
        for (std::int64_t t = 0; t < rows; ++t) {
          pack_at(t, u, length);
        }
      }
    }
  };
  // The kernels of most convolutions; loops of a known length take an eighth less time.
  if constexpr (WIDE && std::is_same_v<T, float>) {
    if (count == 9) {
      pack_all(std::integral_constant<std::int64_t, 9>{});
      return;
    }
  }
  pack_all(count);
}

// Every panel of a slice. Spans are packed in order, as stores wider than a panel ask for.
template <class T, int WIDTH, bool WIDE>
LMC_INLINE void pack(const Slice<T> &slice, Operand<T> (*side)(const ProductSum<T> &),
                     std::int64_t unit, std::int64_t units, T *out) {
  const std::int64_t panel = panel_size(slice.size, WIDTH);
  for (const Span<T> &span : slice.spans) {
    const Operand<T> operand = side(*span.sum);
    if (operand.last == nullptr) {
      pack_span<T, WIDTH, WIDE, false>(operand, span, unit, units, panel, out);
    } else {
      pack_span<T, WIDTH, WIDE, true>(operand, span, unit, units, panel, out);
    }
    out += span.size() * WIDTH;
  }
}

// Asks for what a slice takes of one unit, so that packing finds it near.
template <class T>
LMC_INLINE void fetch(const Slice<T> &slice, Operand<T> (*side)(const ProductSum<T> &),
                      std::int64_t unit) {
  constexpr auto numbers = line / static_cast<std::int64_t>(sizeof(T));
  for (const Span<T> &span : slice.spans) {
    const auto [source, rows, last] = side(*span.sum);
    const std::int64_t count = span.k_end - span.k;
    const T *const first = source.data + unit * source.unit_stride + span.k * source.block_stride;
    if (rows == nullptr && source.row_stride == count) {
      const T *const from = first + span.row * source.row_stride;
      for (std::int64_t k = 0; k < span.size(); k += numbers) {
        __builtin_prefetch(from + k, 0, 2);
      }
      continue;
    }
    for (std::int64_t row = span.row; row < span.row_end; ++row) {
      const T *const from = first + source_row(rows, row) * source.row_stride;
      __builtin_prefetch(from, 0, 2);
      if (source.unit_stride > count && count > 1) {
        __builtin_prefetch(from + (count - 1) * source.block_stride, 0, 2);
      }
    }
  }
}

} // namespace lmc
