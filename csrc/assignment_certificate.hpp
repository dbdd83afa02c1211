#pragma once

#include <cstdint>
#include <vector>

#include "assignment_solver.hpp"
#include "assignment_ties.hpp"

namespace lmc {

// What one reading of the matrix proves about a matching and its prices, independently of how they
// were found. All values are on the grid.
struct Certificate {
  std::vector<double> u;       // max_j (a_ij - price_j)
  std::vector<double> margins; // by how much a row (flipped: a column) prefers its partner
  double gap = 0;              // dual minus primal
  double floor = 0;            // subtracted from prices it makes those without partner zero
  double largest = 0;          // size of the largest dual
  TightGraph tight{0, 0};
};

// Whose margins are wanted.
enum class Margins { none, of_rows, of_columns };

// Reads the matrix in place, on several threads. Empty if interrupted.
template <class T>
Certificate certify(const RowMatrix<T> &matrix, const Matching &matching, Margins margins,
                    int threads, Interrupt &interrupt);

} // namespace lmc
