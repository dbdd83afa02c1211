#pragma once

#include <cstdint>
#include <vector>

#include "assignment_dense_rows.hpp"
#include "assignment_rows.hpp"
#include "assignment_solver.hpp"
#include "assignment_ties.hpp"

namespace lmc {

// What one reading of the matrix tells. Values are those of sign * data.
template <class T> struct Findings {
  double largest = 0;                // largest magnitude, unless poisoned
  bool poisoned = false;             // some entry is not finite
  std::vector<T> best, least;        // of every row
  std::vector<T> smallest;           // the least magnitude but zero of every row
  std::vector<char> column_constant; // all rows agree in this column; empty where none is
  // max_i (a_ij - best_i): the prices at which row i still gets best_i. Of dense surveys, and where
  // there are no more columns than rows.
  std::vector<T> reduced;
  // Where there are more columns than rows: the second best of every row (the best under a tie) and
  // a column of the best.
  std::vector<T> second;
  std::vector<std::int32_t> favourite;
  // The best columns of every row that is not constant. Empty where two rows want only one and the
  // same, and where there are fewer columns than rows. Not of dense surveys.
  TightGraph favourites{0, 0};
  std::vector<Integer<T>> holder; // of dense surveys: the first row that attains it, -1 for none
};

template <class T> Findings<T> survey_rows(const RowMatrix<T> &matrix, Interrupt &interrupt);

// The same for the dense solver, which wants holders and has no use for constant columns.
template <class T> Findings<T> survey_dense(const RowMatrix<T> &matrix, Interrupt &interrupt);

// The entries that are no multiples of the grid's step.
template <class T>
Moved count_moved(const RowMatrix<T> &matrix, const Findings<T> &findings, Interrupt &interrupt);

// The rows and columns that are constant, and dummies for missing rows or columns.
template <class T> Classes find_classes(const RowMatrix<T> &matrix, const Findings<T> &findings);

// Whether two fifths of a sample of rows, constant ones aside, have several best entries. Beside
// forbidden pairs one row is enough: it is likely a dead unit, which then is not constant, and dead
// units that bid outbid only each other.
template <class T> bool mostly_tied(const RowMatrix<T> &matrix, const Findings<T> &findings);

// Reduction by rows, then by columns: with every row at its best entry, the least price at which
// no row wants a column more than that. Where there are more columns than rows all are free: one
// that nobody takes must stay as cheap as any.
template <class T>
void start_prices(const RowMatrix<T> &matrix, const Findings<T> &findings, const Classes &classes,
                  std::vector<double> &price);

// Where there are more columns than rows and all start at price zero: every row bids for its best
// column, up to the price at which it would take its second best, and the highest bid has it.
template <class T>
void claim_favourites(const RowMatrix<T> &matrix, const Findings<T> &findings,
                      const Classes &classes, Matching &matching);

} // namespace lmc
