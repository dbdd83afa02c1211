#include "assignment_components.hpp"

#include <bit>
#include <utility>

namespace lmc {
namespace {

using Partners = std::vector<std::int64_t>; // -1 for none

// Depth-first searches that visit every node once. A pair is named by its column, the rest by the
// number of columns.
class Visits {
public:
  Visits(const TightGraph &graph, const Partners &col_of, const Partners &row_of,
         const std::vector<char> &spare, Interrupt &interrupt)
      : graph_(graph), row_of_(row_of), interrupt_(interrupt), unseen_(graph.words),
        alone_(graph.words), from_rest_(graph.words), may_leave_(graph.cols) {
    const bool wide = graph.rows < graph.cols;
    for (std::int64_t j = 0; j < graph.cols; ++j) {
      const std::uint64_t bit = std::uint64_t{1} << (j % 64);
      (row_of[j] < 0 ? alone_ : unseen_)[j / 64] |= bit;
      from_rest_[j / 64] |= wide && spare[j] ? bit : 0;
    }
    for (std::int64_t i = 0; i < graph.rows; ++i) {
      if (col_of[i] >= 0) {
        may_leave_[col_of[i]] = graph.rows > graph.cols && spare[i];
        continue;
      }
      for (std::int64_t w = 0; w < graph.words; ++w) {
        from_rest_[w] |= graph.bits[i * graph.words + w];
      }
    }
  }

  std::int64_t rest() const { return graph_.cols; }
  bool is_seen(std::int64_t node) const {
    return node == rest() ? rest_seen_ : !((unseen_[node / 64] >> (node % 64)) & 1);
  }

  // Appends what can be reached from a node and was not seen before, each behind all that was
  // reached from it.
  void visit(std::int64_t start, std::vector<std::int64_t> &order) {
    enter(start);
    while (!path_.empty()) {
      if (const std::int64_t next = unseen_from(path_.back()); next >= 0) {
        enter(next);
      } else {
        order.push_back(path_.back().node);
        path_.pop_back();
      }
    }
  }

private:
  // In the words before `word` nothing is left to see.
  struct Place {
    std::int64_t node, word;
  };

  void enter(std::int64_t node) {
    interrupt_(graph_.words);
    if (node == rest()) {
      rest_seen_ = true;
    } else {
      unseen_[node / 64] &= ~(std::uint64_t{1} << (node % 64));
    }
    path_.push_back({node, 0});
  }

  std::int64_t unseen_from(Place &place) const {
    const std::uint64_t *edges = place.node == rest()
                                     ? from_rest_.data()
                                     : graph_.bits.data() + row_of_[place.node] * graph_.words;
    if (!rest_seen_ && leads_to_rest(place.node, edges)) {
      return rest();
    }
    for (; place.word < graph_.words; ++place.word) {
      if (const std::uint64_t open = edges[place.word] & unseen_[place.word]) {
        return place.word * 64 + std::countr_zero(open);
      }
    }
    return -1;
  }

  bool leads_to_rest(std::int64_t node, const std::uint64_t *edges) const {
    if (graph_.rows >= graph_.cols) {
      return may_leave_[node];
    }
    for (std::int64_t w = 0; w < graph_.words; ++w) {
      if (edges[w] & alone_[w]) {
        return true;
      }
    }
    return false;
  }

  const TightGraph &graph_;
  const Partners &row_of_;
  Interrupt &interrupt_;
  std::vector<std::uint64_t> unseen_, alone_, from_rest_;
  std::vector<char> may_leave_; // columns whose row may be without partner
  bool rest_seen_ = false;
  std::vector<Place> path_;
};

} // namespace

// What is left last by a search along the edges is the first to be searched from against them
// (Sharir, Computers & Mathematics with Applications 7, 1981, 67-72).
Components find_components(const TightGraph &graph, const Matching &matching,
                           const std::vector<char> &spare, Interrupt &interrupt) {
  std::vector<std::int64_t> order;
  {
    Visits ahead(graph, matching.col_of, matching.row_of, spare, interrupt);
    for (std::int64_t j = 0; j <= graph.cols; ++j) {
      if (!ahead.is_seen(j)) {
        ahead.visit(j, order);
      }
    }
  }
  const TightGraph transposed = graph.transposed(interrupt);
  Visits behind(transposed, matching.row_of, matching.col_of, spare, interrupt);
  Components result;
  result.of_row.resize(graph.rows);
  std::vector<std::int64_t> component;
  while (!order.empty() && !interrupt.stopped()) {
    const std::int64_t last = order.back();
    order.pop_back();
    const std::int64_t node = last == graph.cols ? behind.rest() : matching.row_of[last];
    if (behind.is_seen(node)) {
      continue;
    }
    component.clear();
    behind.visit(node, component);
    const auto label = static_cast<std::int32_t>(result.sizes.size());
    for (const std::int64_t member : component) {
      (member == behind.rest() ? result.of_rest : result.of_row[member]) = label;
    }
    result.sizes.push_back(static_cast<std::int32_t>(component.size()));
  }
  for (std::int64_t i = 0; i < graph.rows; ++i) {
    if (matching.col_of[i] < 0) {
      result.of_row[i] = result.of_rest;
    }
  }
  return result;
}

} // namespace lmc
