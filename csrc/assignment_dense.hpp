#pragma once

#include <vector>

#include "assignment_solver.hpp"
#include "assignment_survey.hpp"

namespace lmc {

// Reduction by rows, then by columns: with every ordinary row at its best entry, the least price at
// which no row wants a column more than that. A row that does want it as much takes it. The survey
// told which it is by rounded differences, so by less than a rounding another row may want a column
// more: only a certificate shows whether all rows are content.
template <class T>
void claim_columns(const RowMatrix<T> &matrix, const Findings<T> &findings, Matching &matching);

// Auction and shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987, 325-340) that
// scan whole rows: rows <= cols. `matching.price` has room for padded(cols) prices.
template <class T>
SolverResult solve_dense(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
                         const SolverOptions &options, Interrupt &interrupt, SolverWork &work);

} // namespace lmc
