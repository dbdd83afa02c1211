#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "assignment_dense.hpp"
#include "assignment_grid.hpp"

namespace lmc {

// A square matrix read in place, row by row: sign * data on the grid is to be maximised.
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

struct ListWork {
  std::int64_t rows_read = 0;
  std::int64_t list_visits = 0;
  std::int64_t augmentations = 0;
};

// Shortest augmenting paths and epsilon-scaling auction on candidate lists. A list holds the best
// few columns of its row and a bound on all others. Prices only rise, so the bound stays valid and
// the row is read again only when the bound could decide. Starts from any prices on the grid.
template <class T>
DenseResult solve_lists(const RowMatrix<T> &matrix, Matching &matching, int threads,
                        Interrupt &interrupt, ListWork &work);

} // namespace lmc
