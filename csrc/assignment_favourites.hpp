#pragma once

#include "assignment_solver.hpp"
#include "assignment_ties.hpp"

namespace lmc {

// Gives every row with favourites one of them, and the others what is left; at no price that is an
// optimum. False, and `matching` is not to be used, if there is no such matching or to look for it
// would take longer than a few readings of the matrix.
bool match_favourites(const TightGraph &favourites, Matching &matching, Interrupt &interrupt);

} // namespace lmc
