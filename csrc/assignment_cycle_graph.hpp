#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "assignment_certificate.hpp"
#include "assignment_components.hpp"
#include "assignment_solver.hpp"

namespace lmc {

struct Edge {
  double weight;
  std::int64_t node;
};

inline constexpr std::int64_t longest_list = 24;

// Of every node the lightest edges in one direction, in ascending order, and a bound on the others.
class EdgeLists {
public:
  EdgeLists(std::int64_t nodes, std::int64_t capacity)
      : capacity_(capacity), weights_(nodes * capacity), ends_(nodes * capacity), sizes_(nodes),
        bound_(nodes, std::numeric_limits<double>::infinity()) {}

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size(std::int64_t node) const { return sizes_[node]; }
  double bound(std::int64_t node) const { return bound_[node]; }
  Edge edge(std::int64_t node, std::int64_t k) const {
    return {weights_[node * capacity_ + k], ends_[node * capacity_ + k]};
  }

  // What an edge must be below to be listed.
  double limit(std::int64_t node) const {
    return sizes_[node] < capacity_ ? std::numeric_limits<double>::infinity()
                                    : weights_[(node + 1) * capacity_ - 1];
  }

  void insert(std::int64_t node, const Edge &edge) {
    if (edge.weight >= limit(node)) {
      lower_bound(node, edge.weight);
      return;
    }
    if (sizes_[node] == capacity_) {
      lower_bound(node, limit(node));
    } else {
      ++sizes_[node];
    }
    std::int64_t at = node * capacity_ + sizes_[node] - 1;
    for (; at > node * capacity_ && weights_[at - 1] > edge.weight; --at) {
      weights_[at] = weights_[at - 1];
      ends_[at] = ends_[at - 1];
    }
    weights_[at] = edge.weight;
    ends_[at] = static_cast<std::int32_t>(edge.node);
  }

  // Says that what is not listed weighs at least so much.
  void lower_bound(std::int64_t node, double bound) {
    bound_[node] = std::min(bound_[node], bound);
  }

private:
  std::int64_t capacity_;
  std::vector<double> weights_;
  std::vector<std::int32_t> ends_, sizes_;
  std::vector<double> bound_;
};

// The graph of reduced costs. Its nodes are the pairs of the matching, named by the rows where
// there are fewer rows than columns and else by the columns, and some hubs: the first is the rest,
// whatever has no partner. An edge leads from a row to the pair whose column it takes.
//
// Pairs that are on a cycle of weight zero are one place to a search, and a dead unit is on one
// with all others: they would be all that is listed. So the largest components of such pairs are
// hubs, too, and no nodes any more; their edges are the lightest of any member.
template <class T> class CycleGraph {
public:
  CycleGraph(const RowMatrix<T> &matrix, const Matching &matching, const Certificate &certificate,
             const Components &components);

  // Reads the matrix three times.
  void build(int threads, Interrupt &interrupt);

  std::int64_t pairs() const { return pairs_; }
  std::int64_t rest() const { return pairs_; }
  std::int64_t nodes() const { return pairs_ + hubs(); }
  const EdgeLists &outgoing() const { return out_; }
  const EdgeLists &incoming() const { return in_; }

  // The rows (where there are more of them) or columns without partner.
  const std::vector<std::int64_t> &spare() const { return spare_; }
  std::int64_t row(std::int64_t p) const { return wide_ ? p : matching_.row_of[p]; }
  std::int64_t col(std::int64_t p) const { return wide_ ? matching_.col_of[p] : p; }

  // The node of a pair, or of a hub.
  std::int64_t node_of(std::int64_t p) const { return p < pairs_ ? node_of_row_[row(p)] : p; }

  // Other optima mix it with other pairs.
  bool is_tied(std::int64_t p) const { return components_.sizes[components_.of_row[row(p)]] > 1; }

  double edge(std::int64_t from, std::int64_t to) const {
    if (from == to) {
      return std::numeric_limits<double>::infinity();
    }
    if (from >= pairs_) {
      return leaving_[(from - pairs_) * nodes() + to];
    }
    return to >= pairs_ ? entering_[from * hubs() + to - pairs_] : reduced(row(from), col(to));
  }

  double reduced(std::int64_t i, std::int64_t j) const {
    return u_[i] + price_[j] - matrix_.exact(i, j);
  }

private:
  static constexpr std::int64_t most_hubs = 4;

  std::int64_t hubs() const { return static_cast<std::int64_t>(hub_cols_.size()); }
  void find_hubs();
  void reduce_part(std::int64_t i, std::int64_t begin, std::int64_t end, double *out) const;
  std::int64_t grain() const;
  // Duals between the ends of their range make the searches short. Raising u_i and lowering the
  // price of its column by half of what its lightest edge there exceeds its lightest edge out by
  // leaves no edge negative, whatever the other pairs do. Tied pairs stay where they are.
  void centre(int threads, Interrupt &interrupt);
  void list_outgoing(int threads, Interrupt &interrupt);
  void list_incoming(int threads, Interrupt &interrupt);
  void list_hubs();

  const RowMatrix<T> &matrix_;
  const Matching &matching_;
  const Components &components_;
  const double floor_;
  std::vector<double> u_, price_;
  const bool wide_;
  const std::int64_t pairs_;
  std::vector<std::int64_t> spare_;
  std::vector<std::int32_t> node_of_row_;
  std::vector<std::vector<std::int32_t>> hub_cols_; // of each hub
  // From each hub to every node, and from every pair to each hub.
  std::vector<double> leaving_, entering_;
  EdgeLists out_, in_;
};

} // namespace lmc
