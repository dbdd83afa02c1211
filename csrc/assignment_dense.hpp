#pragma once

#include <cstdint>
#include <memory>

#include "assignment_solver.hpp"

namespace lmc {

// The matrix on the grid. Every row is padded with -infinity to `stride`, a multiple of 8.
struct GridValues {
  const double *row(std::int64_t i) const { return values.get() + i * stride; }

  std::int64_t rows, cols, stride;
  std::unique_ptr<double[]> values;
  std::int64_t moved = 0; // entries off the grid
  double moved_by = 0;    // and how far
};

template <class T> GridValues values_on_grid(const RowMatrix<T> &matrix, Interrupt &interrupt);

// Auction and shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987, 325-340) that
// scan whole rows: rows <= cols, and small enough that a copy in double precision stays in cache.
template <class T>
SolverResult solve_dense(const RowMatrix<T> &matrix, const GridValues &values,
                         const Classes &classes, Matching &matching, const SolverOptions &options,
                         Interrupt &interrupt, SolverWork &work);

} // namespace lmc
