#pragma once

#include <cstdint>
#include <vector>

#include "assignment_solver.hpp"
#include "assignment_ties.hpp"

namespace lmc {

// Pairs of an optimal matching that other optima mix with each other: the strongly connected
// components of the tight graph, where an edge leads from a pair to those whose columns its row is
// as content with. One more node, the rest, is whatever has no partner.
struct Components {
  // The component of every row: that of its pair, or that of the rest for a row without partner.
  std::vector<std::int32_t> of_row;
  std::int32_t of_rest = 0;
  // How many nodes each has. A node that is alone is on no cycle of tight edges.
  std::vector<std::int32_t> sizes;
};

// `spare` as for canonical_optimum.
Components find_components(const TightGraph &graph, const Matching &matching,
                           const std::vector<char> &spare, Interrupt &interrupt);

} // namespace lmc
