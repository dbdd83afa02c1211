#pragma once

#include "assignment_solver.hpp"

namespace lmc {

// A problem with many more rows than columns by lists of the best rows of each column, all rows at
// one price, and without a copy of the matrix. Unfinished where that comes to more than plain
// bidding, a few searches and a few columns that are read again. `matching` starts from nothing.
template <class T>
SolverResult solve_columns(const RowMatrix<T> &matrix, Classes &classes, Matching &matching,
                           Interrupt &interrupt, SolverWork &work);

} // namespace lmc
