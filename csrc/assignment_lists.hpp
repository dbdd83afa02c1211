#pragma once

#include "assignment_solver.hpp"

namespace lmc {

// Epsilon-scaling auction and shortest augmenting paths on candidate lists. A list holds the best
// few columns of its row and a bound on all others. Prices only rise, so the bound stays valid and
// the row is read again only when the bound could decide. Of a RowMatrix or a TurnedMatrix.
template <class Matrix>
SolverResult solve_lists(const Matrix &matrix, const Classes &classes, Matching &matching,
                         const SolverOptions &options, Interrupt &interrupt, SolverWork &work);

} // namespace lmc
