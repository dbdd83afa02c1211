#pragma once

#include <cstdint>
#include <vector>

namespace lmc {

// sums[r] = sum over c, k of a[r][c][k] * b[row_index[r]][column_index[c]][k]; a null index stands
// for 0, 1, 2, ...
template <class T> struct RowProducts {
  const T *a;
  const T *b;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t block;
  const std::int64_t *row_index;
  const std::int64_t *column_index;
  double *sums;
};

// Runs of at most 1024 products are summed in T, the runs in float64 in one order.
template <class T> void row_inner_products(const std::vector<RowProducts<T>> &tensors, int threads);

} // namespace lmc
