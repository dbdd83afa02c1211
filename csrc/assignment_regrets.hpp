#pragma once

#include <vector>

#include "assignment_certificate.hpp"
#include "assignment_components.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// By how much the best total falls when a row (or a column, `of_columns`) may not have the partner
// that an optimum gives it, for one without partner: when it must have one. Infinite where there is
// no other assignment.
//
// Under optimal duals that is the length of the shortest cycle through the pair, if to move from
// one row's column to another's costs the reduced cost (Murty, Operations Research 16, 1968,
// 682-687, ranks assignments by the same sums). Each is found by a search from both ends on lists
// of the least reduced costs of every row and column, with bounds on all others.
template <class T>
std::vector<double> regrets(const RowMatrix<T> &matrix, const Matching &matching,
                            const Certificate &certificate, const Components &components,
                            bool of_columns, int threads, Interrupt &interrupt, SolverWork &work);

} // namespace lmc
