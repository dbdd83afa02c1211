#include "inner_products_cpu.hpp"

#include <algorithm>

#include "parallel.hpp"
#include "simd.hpp"
#include "similarity_cpu.hpp"

namespace lmc {

namespace {

constexpr std::int64_t products_per_piece = 1 << 16;

template <class T>
LMC_INLINE double run_inner_product(const T *__restrict a, const T *__restrict b,
                                    std::int64_t count) {
  constexpr std::int64_t lanes = 8;
  T total[lanes] = {};
  std::int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    for (std::int64_t i = 0; i < lanes; ++i) {
      total[i] += a[k + i] * b[k + i];
    }
  }
  double sum = 0.0;
  for (; k < count; ++k) {
    sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  }
  for (const T value : total) {
    sum += static_cast<double>(value);
  }
  return sum;
}

template <class T>
LMC_CLONES double row_inner_product(const T *a, const T *b, std::int64_t columns,
                                    std::int64_t block, const std::int64_t *column_index) {
  constexpr std::int64_t run = 1024;
  double sum = 0.0;
  if (block == 1 && column_index != nullptr) {
    for (std::int64_t c = 0; c < columns; ++c) {
      sum += static_cast<double>(a[c]) * static_cast<double>(b[column_index[c]]);
    }
    return sum;
  }
  for (std::int64_t c = 0; c < columns; ++c) {
    const T *const left = a + c * block;
    const T *const right = b + source_row(column_index, c) * block;
    for (std::int64_t k = 0; k < block; k += run) {
      sum += run_inner_product(left + k, right + k, std::min(run, block - k));
    }
  }
  return sum;
}

} // namespace

template <class T>
void row_inner_products(const std::vector<RowProducts<T>> &tensors, int threads) {
  struct Piece {
    const RowProducts<T> *tensor;
    std::int64_t row;
    std::int64_t row_end;
  };
  std::vector<Piece> pieces;
  std::int64_t total = 0;
  for (const RowProducts<T> &tensor : tensors) {
    const std::int64_t size = std::max<std::int64_t>(tensor.columns * tensor.block, 1);
    const std::int64_t step = std::max<std::int64_t>(1, products_per_piece / size);
    for (std::int64_t row = 0; row < tensor.rows; row += step) {
      pieces.push_back({&tensor, row, std::min(row + step, tensor.rows)});
    }
    total += tensor.rows * size;
  }
  const auto useful =
      static_cast<int>(std::min<std::int64_t>(total / (8 * products_per_piece), threads));
  parallel_for(static_cast<std::int64_t>(pieces.size()), 1, useful,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const auto &[tensor, row, row_end] = pieces[static_cast<std::size_t>(i)];
                   const std::int64_t size = tensor->columns * tensor->block;
                   const bool whole = tensor->column_index == nullptr;
                   for (std::int64_t r = row; r < row_end; ++r) {
                     tensor->sums[r] = row_inner_product(
                         tensor->a + r * size, tensor->b + source_row(tensor->row_index, r) * size,
                         whole ? 1 : tensor->columns, whole ? size : tensor->block,
                         tensor->column_index);
                   }
                 }
               });
}

template void row_inner_products(const std::vector<RowProducts<float>> &, int);
template void row_inner_products(const std::vector<RowProducts<double>> &, int);

} // namespace lmc
