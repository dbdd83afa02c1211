#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "assignment_dense.hpp"
#include "assignment_grid.hpp"

namespace lmc {

// A matrix read in place, row by row: sign * data on the grid is to be maximised.
template <class T> struct RowMatrix {
  const T *row(std::int64_t i) const { return data + i * stride; }
  double exact(std::int64_t i, std::int64_t j) const {
    return grid(static_cast<double>(sign * row(i)[j]));
  }

  const T *data;
  std::int64_t rows, cols, stride;
  T sign;
  Grid grid;
};

// Rows and columns that are constant, and the dummies that make a rectangular problem square. A
// constant row takes whatever is cheapest, a constant column is worth the same to every row, so
// neither needs a list. Both vectors cover max(rows, cols) entries; NaN marks ordinary ones.
struct Classes {
  std::vector<double> row_value, col_value;
};

struct ListWork {
  std::int64_t rows_read = 0;
  std::int64_t list_visits = 0;
  std::int64_t augmentations = 0;
};

// Epsilon-scaling auction and shortest augmenting paths on candidate lists. A list holds the best
// few columns of its row and a bound on all others. Prices only rise, so the bound stays valid and
// the row is read again only when the bound could decide. `matching` covers max(rows, cols) rows
// and columns and starts from any prices on the grid.
template <class T>
DenseResult solve_lists(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
                        double tolerance, bool warm, Interrupt &interrupt, ListWork &work);

} // namespace lmc
