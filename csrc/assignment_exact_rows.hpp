#pragma once

#include <cstdint>

#include "assignment_rows.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// Kernels on the grid that read the matrix in place and convert on the way: no copy in double
// precision. Arrays over columns are padded to a multiple of exact_lanes.
constexpr std::int64_t exact_lanes = 8;
constexpr std::int64_t padded(std::int64_t cols) {
  return (cols + exact_lanes - 1) / exact_lanes * exact_lanes;
}

// The largest and second largest a_j - price_j of a row and a place of the largest.
TopTwo<double> top_two_exact(const RowMatrix<float> &matrix, const float *row, const double *price);
TopTwo<double> top_two_exact(const RowMatrix<double> &matrix, const double *row,
                             const double *price);

// A path's yield is what it adds to the objective: a shortest path yields most. First column
// `closed` is shut (-1: none): its yield becomes -infinity and its price infinity. Then yield_j is
// set to max(yield_j, a_j + shift - price_j). Returns the largest and its place, -1 if none is
// above -infinity.
struct Nearest {
  double yield;
  std::int64_t col;
};
Nearest relax(const RowMatrix<float> &matrix, const float *row, double shift, std::int64_t closed,
              double *price, double *yield);
Nearest relax(const RowMatrix<double> &matrix, const double *row, double shift, std::int64_t closed,
              double *price, double *yield);

// A matching and its prices, to be checked row by row.
struct PricedMatching {
  const std::int64_t *col_of; // (rows,), -1 for none
  double row_floor;           // the profit of a row without column
  const double *price;        // (padded cols,)
};

// For rows of at most 64 columns: writes the rows' best profits, at least those they have, and of
// each a word that has the bits of the columns that yield at least what it has. Returns by how much
// the best exceed what the rows have, together.
double check_short_rows(const RowMatrix<float> &matrix, std::int64_t begin, std::int64_t end,
                        const PricedMatching &matching, double *best, std::uint64_t *tight);
double check_short_rows(const RowMatrix<double> &matrix, std::int64_t begin, std::int64_t end,
                        const PricedMatching &matching, double *best, std::uint64_t *tight);

// The largest and second largest a_j - price_j of a row (equal under a tie); bit j of `tight` is
// set where it reaches `level`.
struct RowCheck {
  double best, second;
};
RowCheck check_row(const RowMatrix<float> &matrix, const float *row, const double *price,
                   double level, std::uint64_t *tight);
RowCheck check_row(const RowMatrix<double> &matrix, const double *row, const double *price,
                   double level, std::uint64_t *tight);

} // namespace lmc
