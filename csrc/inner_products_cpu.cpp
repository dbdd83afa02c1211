#include "inner_products_cpu.hpp"

#include <algorithm>
#include <type_traits>

#include "parallel.hpp"
#include "simd.hpp"
#include "similarity_cpu.hpp"

namespace lmc {

namespace {

constexpr std::int64_t products_per_piece = 1 << 16;

// Runs of at most 1024 products are summed in T. `block` is a number or a constant.
template <class T, class Block>
LMC_INLINE double sum_of_runs(const T *a, const T *b, std::int64_t columns, Block block,
                              const std::int64_t *column_index) {
  constexpr std::int64_t run = 1024;
  const std::int64_t some = std::max<std::int64_t>(1, run / std::max<std::int64_t>(block, 1));
  double sum = 0.0;
  for (std::int64_t column = 0; column < columns; column += some) {
    for (std::int64_t begin = 0; begin < block; begin += run) {
      const std::int64_t count = std::min<std::int64_t>(run, block - begin);
      Vector<T> total = {};
      T rest = 0;
      for (std::int64_t c = column; c < std::min(column + some, columns); ++c) {
        const T *const left = a + c * block + begin;
        const T *const right = b + source_row(column_index, c) * block + begin;
        std::int64_t k = 0;
        for (; k + width<T> <= count; k += width<T>) {
          total += load(left + k) * load(right + k);
        }
        for (; k < count; ++k) {
          rest += left[k] * right[k];
        }
      }
      for (std::int64_t lane = 0; lane < width<T>; ++lane) {
        sum += static_cast<double>(total[lane]);
      }
      sum += static_cast<double>(rest);
    }
  }
  return sum;
}

// The kernels of most convolutions have nine numbers; loops of a known length are faster.
template <class T>
LMC_CLONES double row_inner_product(const T *a, const T *b, std::int64_t columns,
                                    std::int64_t block, const std::int64_t *column_index) {
  return block == 9
             ? sum_of_runs(a, b, columns, std::integral_constant<std::int64_t, 9>{}, column_index)
             : sum_of_runs(a, b, columns, block, column_index);
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
                 std::vector<T> copy;
                 for (std::int64_t i = begin; i < end; ++i) {
                   const auto &[tensor, row, row_end] = pieces[static_cast<std::size_t>(i)];
                   const std::int64_t size = tensor->columns * tensor->block;
                   const bool whole = tensor->column_index == nullptr;
                   for (std::int64_t r = row; r < row_end; ++r) {
                     const T *b = tensor->b + source_row(tensor->row_index, r) * size;
                     if (!whole) {
                       // Memory is read in the order of its addresses, the cache in the index'.
                       copy.assign(b, b + size);
                       b = copy.data();
                     }
                     tensor->sums[r] =
                         row_inner_product(tensor->a + r * size, b, whole ? 1 : tensor->columns,
                                           whole ? size : tensor->block, tensor->column_index);
                   }
                 }
               });
}

template void row_inner_products(const std::vector<RowProducts<float>> &, int);
template void row_inner_products(const std::vector<RowProducts<double>> &, int);

} // namespace lmc
