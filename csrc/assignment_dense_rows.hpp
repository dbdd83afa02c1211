#pragma once

#include <cstdint>

#include "assignment_exact_rows.hpp"
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

// Writes unit * price, rounded, and returns the largest magnitude of a price.
double round_prices(const double *price, float unit, float *rounded, std::int64_t count);
double round_prices(const double *price, double unit, double *rounded, std::int64_t count);

// What float32 sees of prices.
struct RoundedPrices {
  const float *price; // (cols,), in the units of the matrix
  float unit;
  double error; // what a difference formed in float32 may be wrong by
};

// As check_short_rows, of any number of columns: finds those that could be a row's best in float32
// and looks at these exactly.
double check_rows(const RowMatrix<float> &matrix, std::int64_t begin, std::int64_t end,
                  const PricedMatching &matching, const RoundedPrices &rounded, double *best,
                  std::uint64_t *tight);

// Sets one price so that the next scan need not wait for it.
void put_price(float *price, std::int64_t at, float value);
void put_price(double *price, std::int64_t at, double value);

} // namespace lmc
