#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "assignment_solver.hpp"

namespace lmc {

// The pairs with zero reduced cost under optimal duals: its perfect matchings are the optimal
// assignments, whatever duals it came from. One bit per pair.
struct TightGraph {
  TightGraph(std::int64_t rows_, std::int64_t cols_)
      : rows(rows_), cols(cols_), words((cols_ + 63) / 64), bits(rows_ * words) {}

  void add(std::int64_t i, std::int64_t j) {
    bits[i * words + j / 64] |= std::uint64_t{1} << (j % 64);
  }
  bool has(std::int64_t i, std::int64_t j) const {
    return (bits[i * words + j / 64] >> (j % 64)) & 1;
  }
  // Appends a row without pairs; its bits.
  std::uint64_t *append() {
    bits.resize(++rows * words);
    return bits.data() + (rows - 1) * words;
  }
  TightGraph transposed(Interrupt &interrupt) const;

  std::int64_t rows, cols, words;
  std::vector<std::uint64_t> bits;
};

// Replaces col_of (an optimal assignment, -1 for none) by the canonical optimum: the
// lexicographically smallest (no partner counts as the largest), or where prefer is given the
// lexicographically smallest among those that agree with it in most rows. `spare` marks the columns
// (rows < cols) or rows (rows > cols) that may be without partner. After an interrupt col_of
// is some optimum.
void canonical_optimum(const TightGraph &graph, const std::vector<char> &spare,
                       const std::int64_t *prefer, std::span<std::int64_t> col_of,
                       Interrupt &interrupt);

} // namespace lmc
