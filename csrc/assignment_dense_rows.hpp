#pragma once

#include <cstdint>

#include "assignment_solver.hpp"
#include "simd.hpp"

namespace lmc {

// Kernels on the entries as given, in their own precision, for matrices that are scanned whole.

// What the rows from the first on told. Values are those of sign * data.
template <class T> struct RowTotals {
  T *best, *least, *smallest; // (rows,): extremes, and the least magnitude but zero
  T *bound;                   // (cols,): max_i (a_ij - best_i), rounded
  Integer<T> *holder;         // (cols,): the first row that attains it, -1 for none
  T poison;                   // zero unless an entry is not finite
};

// Adds the rows begin to end. Constant rows raise no bound.
void survey_block(const RowMatrix<float> &matrix, std::int64_t begin, std::int64_t end,
                  RowTotals<float> &totals);
void survey_block(const RowMatrix<double> &matrix, std::int64_t begin, std::int64_t end,
                  RowTotals<double> &totals);

// Writes the places but `own` where sign * row_j - price_j reaches the threshold, in any order, and
// returns their number; -1 if that is above `most`.
std::int64_t others_reaching(const float *row, float sign, const float *price, std::int64_t count,
                             float threshold, std::int64_t own, std::int64_t most,
                             std::int32_t *places);

// Sets one price so that the next scan need not wait for it.
void put_price(float *price, std::int64_t at, float value);
void put_price(double *price, std::int64_t at, double value);

} // namespace lmc
