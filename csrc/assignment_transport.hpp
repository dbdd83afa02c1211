#pragma once

#include "assignment_copies.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// Solves the problem in which rows and columns that are alike are one source and one sink with as
// many units (a transportation problem) and deals the units out. Dummies are one more kind.
template <class T>
SolverResult solve_transport(const RowMatrix<T> &matrix, const Copies &copies, Matching &matching,
                             const SolverOptions &options, Interrupt &interrupt, SolverWork &work);

} // namespace lmc
