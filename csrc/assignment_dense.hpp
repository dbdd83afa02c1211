#pragma once

#include <vector>

#include "assignment_solver.hpp"

namespace lmc {

// Reduction by rows, then by columns: with every ordinary row at its best entry, the least price at
// which no row wants a column more than that. A row that does want it as much takes it, so that
// this row is content.
template <class T>
void reduce_columns(const RowMatrix<T> &matrix, const Classes &classes, const std::vector<T> &best,
                    Matching &matching, Interrupt &interrupt);

// Auction and shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987, 325-340) that
// scan whole rows: rows <= cols. `matching.price` has room for padded(cols) prices.
template <class T>
SolverResult solve_dense(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
                         const SolverOptions &options, Interrupt &interrupt, SolverWork &work);

} // namespace lmc
