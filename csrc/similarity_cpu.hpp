#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace lmc {

// Position t of a list of rows; a null list stands for 0, 1, 2, ...
inline std::int64_t source_row(const std::int64_t *index, std::int64_t t) {
  return index == nullptr ? t : index[t];
}

// A tensor arranged around its units: element (unit, row, k) lies at
// data[unit * unit_stride + row * row_stride + k * block_stride].
template <class T> struct UnitRows {
  const T *data;
  std::int64_t unit_stride;
  std::int64_t row_stride;
  std::int64_t block_stride;
};

// The sum over t < rows, k < block of a(i, rows_a[t], k) * (b(j, rows_b[t], k) - b(j, rows_last[t],
// k)). Null rows_a or rows_b stand for 0, 1, 2, ...; with rows_last null nothing is subtracted.
template <class T> struct ProductSum {
  UnitRows<T> a;
  UnitRows<T> b;
  std::int64_t rows;
  std::int64_t block;
  const std::int64_t *rows_a;
  const std::int64_t *rows_b;
  const std::int64_t *rows_last;
};

// Sums to add to element (i, j) of a (units, units) row-major matrix, or to 0 where `afresh`.
template <class T> struct SimilarityUpdate {
  std::vector<ProductSum<T>> sums;
  std::int64_t units;
  T *similarity;
  bool afresh;
};

// Adds up to different matrices. An element is summed in one order whatever the number of threads;
// instruction sets differ in rounding. False if `interrupted` said so, which leaves the matrices
// incomplete.
template <class T>
bool add_products(const std::vector<SimilarityUpdate<T>> &updates, int instruction_set, int threads,
                  const std::function<bool()> &interrupted);

} // namespace lmc
