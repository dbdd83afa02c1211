#include "assignment_regrets.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "assignment_rows.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
LMC_INLINE void reduce_impl(const T *row, T sign, const Grid &grid, double u, const double *price,
                            double *out, std::int64_t count) {
  const Grid local = grid;
  for (std::int64_t j = 0; j < count; ++j) {
    out[j] = u + price[j] - local(static_cast<double>(row[j] * sign));
  }
}

// out[j] = u + price_j - a_j.
LMC_CLONES void reduce(const float *row, float sign, const Grid &grid, double u,
                       const double *price, double *out, std::int64_t count) {
  reduce_impl(row, sign, grid, u, price, out, count);
}
LMC_CLONES void reduce(const double *row, double sign, const Grid &grid, double u,
                       const double *price, double *out, std::int64_t count) {
  reduce_impl(row, sign, grid, u, price, out, count);
}

// least_of[j] = min(least_of[j], value_j); returns the least value.
LMC_CLONES double lower_columns(const double *values, double *least_of, std::int64_t count) {
  Doubles least = Doubles{} + infinity;
  std::int64_t j = 0;
  for (; j + width<double> <= count; j += width<double>) {
    const Doubles x = load(values + j);
    store(least_of + j) = smaller(x, load(least_of + j));
    least = smaller(x, least);
  }
  double result = std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
  for (; j < count; ++j) {
    least_of[j] = std::min(values[j], least_of[j]);
    result = std::min(values[j], result);
  }
  return result;
}

// Writes the places where value < limit and returns their number.
LMC_CLONES std::int64_t places_below(const double *values, const double *limits, std::int64_t count,
                                     std::int32_t *places) {
  constexpr std::int64_t block = 4 * width<double>;
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t end = std::min(count, begin + block);
    if (end - begin == block) {
      Longs below{};
      for (std::int64_t j = begin; j < end; j += width<double>) {
        below |= load(values + j) < load(limits + j);
      }
      if (!(below[0] | below[1] | below[2] | below[3])) {
        continue;
      }
    }
    for (std::int64_t j = begin; j < end; ++j) {
      places[found] = static_cast<std::int32_t>(j);
      found += values[j] < limits[j];
    }
  }
  return found;
}

struct Edge {
  double weight;
  std::int64_t node;
};

// Of every node the lightest edges in one direction, in ascending order, and a bound on the others.
class EdgeLists {
public:
  EdgeLists(std::int64_t nodes, std::int64_t capacity)
      : capacity_(capacity), weights_(nodes * capacity), ends_(nodes * capacity), sizes_(nodes),
        bound_(nodes, infinity) {}

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size(std::int64_t node) const { return sizes_[node]; }
  double bound(std::int64_t node) const { return bound_[node]; }
  Edge edge(std::int64_t node, std::int64_t k) const {
    return {weights_[node * capacity_ + k], ends_[node * capacity_ + k]};
  }

  // What an edge must be below to be listed.
  double limit(std::int64_t node) const {
    return sizes_[node] < capacity_ ? infinity : weights_[(node + 1) * capacity_ - 1];
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
// there are fewer rows than columns and else by the columns, and one node for whatever has no
// partner: the rest. An edge leads from a row to the pair whose column it takes.
template <class T> class Graph {
public:
  Graph(const RowMatrix<T> &matrix, const Classes &classes, const Matching &matching,
        const Certificate &certificate)
      : matrix_(matrix), classes_(classes), matching_(matching), floor_(certificate.floor),
        u_(certificate.u), price_(matching.price.begin(), matching.price.begin() + matrix.cols),
        wide_(matrix.rows < matrix.cols), pairs_(std::min(matrix.rows, matrix.cols)),
        to_rest_(pairs_, infinity), from_rest_(pairs_, infinity),
        out_(pairs_ + 1, list_capacity(matrix)), in_(pairs_ + 1, list_capacity(matrix)) {
    for (std::int64_t i = 0; i < matrix.rows; ++i) {
      constant_rows_ += !std::isnan(classes.row_value[i]);
      if (matching.col_of[i] < 0) {
        spare_.push_back(i);
      }
    }
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      constant_cols_ += !std::isnan(classes.col_value[j]);
      if (matching.row_of[j] < 0) {
        spare_.push_back(j);
      }
    }
  }

  void build(int threads, Interrupt &interrupt) {
    centre(threads, interrupt);
    if (wide_) {
      for (std::int64_t p = 0; p < pairs_; ++p) {
        from_rest_[p] = price_[col(p)] - floor_;
      }
    }
    list_outgoing(threads, interrupt);
    list_incoming(threads, interrupt);
    for (std::int64_t p = 0; p < pairs_; ++p) {
      insert_finite(out_, rest(), {from_rest_[p], p});
      insert_finite(in_, rest(), {to_rest_[p], p});
    }
  }

  std::int64_t pairs() const { return pairs_; }
  std::int64_t rest() const { return pairs_; }
  const EdgeLists &outgoing() const { return out_; }
  const EdgeLists &incoming() const { return in_; }

  // The rows (where there are more of them) or columns without partner.
  const std::vector<std::int64_t> &spare() const { return spare_; }
  std::int64_t row(std::int64_t p) const { return wide_ ? p : matching_.row_of[p]; }
  std::int64_t col(std::int64_t p) const { return wide_ ? matching_.col_of[p] : p; }

  // Rows that are constant have the same edges out, columns that are have the same edges in.
  bool is_constant(std::int64_t p, bool outgoing) const {
    return p != rest() &&
           !std::isnan(outgoing ? classes_.row_value[row(p)] : classes_.col_value[col(p)]);
  }

  // Two constant rows, or columns, can swap their partners at no loss.
  bool is_interchangeable(std::int64_t p) const {
    return (constant_rows_ > 1 && is_constant(p, true)) ||
           (constant_cols_ > 1 && is_constant(p, false));
  }

  double edge(std::int64_t from, std::int64_t to) const {
    if (from == to) {
      return infinity;
    }
    if (from == rest()) {
      return from_rest_[to];
    }
    return to == rest() ? to_rest_[from] : reduced(row(from), col(to));
  }

  double reduced(std::int64_t i, std::int64_t j) const {
    return u_[i] + price_[j] - matrix_.exact(i, j);
  }

private:
  static std::int64_t list_capacity(const RowMatrix<T> &matrix) {
    return std::clamp<std::int64_t>(std::max(matrix.rows, matrix.cols) / 200, 5, 24);
  }

  static void insert_finite(EdgeLists &lists, std::int64_t node, const Edge &edge) {
    if (edge.weight < infinity) {
      lists.insert(node, edge);
    }
  }

  void reduce_part(std::int64_t i, std::int64_t begin, std::int64_t end, double *out) const {
    reduce(matrix_.row(i) + begin, matrix_.sign, matrix_.grid, u_[i], price_.data() + begin, out,
           end - begin);
  }

  std::int64_t grain() const {
    return std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix_.cols, 1));
  }

  // Duals between the ends of their range make the searches short. Raising u_i and lowering the
  // price of its column by half of what its lightest edge there exceeds its lightest edge out by
  // leaves no edge negative, whatever the other pairs do.
  void centre(int threads, Interrupt &interrupt) {
    std::vector<double> out(matrix_.rows, infinity), in(matrix_.cols, infinity);
    Workers workers(interrupt);
    std::mutex merge;
    parallel_for(matrix_.rows, grain(), threads, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> reduced_row(matrix_.cols), least(matrix_.cols, infinity);
      workers.run(begin, end, [&](std::int64_t i, Interrupt &poll) {
        poll(2 * matrix_.cols);
        reduce_part(i, 0, matrix_.cols, reduced_row.data());
        if (const std::int64_t own = matching_.col_of[i]; own >= 0) {
          reduced_row[own] = infinity;
        }
        out[i] = lower_columns(reduced_row.data(), least.data(), matrix_.cols);
      });
      const std::lock_guard<std::mutex> lock(merge);
      lower_columns(least.data(), in.data(), matrix_.cols);
    });
    const double step = std::ldexp(1.0, -matrix_.grid.bits);
    for (std::int64_t p = 0; p < pairs_; ++p) {
      double &u = u_[row(p)];
      double &price = price_[col(p)];
      const double least_out =
          matrix_.rows > matrix_.cols ? std::min(out[row(p)], u + floor_) : out[row(p)];
      const double least_in = wide_ ? std::min(in[col(p)], price - floor_) : in[col(p)];
      // What the constant rows and columns have in common is not to be lost.
      if (is_constant(p, true) || is_constant(p, false)) {
        continue;
      }
      if (least_out < infinity && least_in < infinity) {
        const double shift = std::trunc((least_in - least_out) / (2 * step)) * step;
        u += shift;
        price -= shift;
      }
    }
  }

  void list_outgoing(int threads, Interrupt &interrupt) {
    Workers workers(interrupt);
    const std::vector<double> nothing(pairs_ + 1, 0.0);
    parallel_for(pairs_, grain(), threads, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> reduced_row(matrix_.cols + 1), gathered(wide_ ? pairs_ + 1 : 0);
      double *const weights = wide_ ? gathered.data() : reduced_row.data();
      GroupScan<double> scan(pairs_ + 1);
      double spread = 1.0 / 64;
      workers.run(begin, end, [&](std::int64_t p, Interrupt &poll) {
        poll(2 * matrix_.cols);
        reduce_part(row(p), 0, matrix_.cols, reduced_row.data());
        if (wide_) {
          for (const std::int64_t j : spare_) {
            to_rest_[p] = std::min(to_rest_[p], reduced_row[j]);
          }
        } else if (matrix_.rows > matrix_.cols) {
          to_rest_[p] = u_[row(p)] + floor_;
        }
        if (wide_) {
          for (std::int64_t q = 0; q < pairs_; ++q) {
            weights[q] = reduced_row[col(q)];
          }
        }
        weights[p] = infinity;
        weights[rest()] = to_rest_[p];
        scan.read(weights, -1.0, nothing.data());
        const double threshold = upper_threshold(scan.maxima(), scan.groups(),
                                                 std::min(out_.capacity(), pairs_), spread);
        for (const std::int32_t q : scan.places(threshold)) {
          insert_finite(out_, p, {weights[q], q});
        }
        if (threshold > std::numeric_limits<double>::lowest()) {
          out_.lower_bound(p, -threshold);
        }
      });
    });
  }

  void list_incoming(int threads, Interrupt &interrupt) {
    Workers workers(interrupt);
    parallel_for(matrix_.cols, 512, threads, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> weights(end - begin), limits(end - begin);
      std::vector<std::int32_t> places(end - begin);
      for (std::int64_t j = begin; j < end; ++j) {
        limits[j - begin] = matching_.row_of[j] < 0 ? -infinity : infinity;
      }
      workers.run(0, matrix_.rows, [&](std::int64_t i, Interrupt &poll) {
        poll(2 * (end - begin));
        reduce_part(i, begin, end, weights.data());
        const std::int64_t own = matching_.col_of[i];
        if (own < 0) {
          for (std::int64_t j = begin; j < end; ++j) {
            from_rest_[j] = std::min(from_rest_[j], weights[j - begin]);
          }
          return;
        }
        const std::int64_t source = wide_ ? i : own;
        const std::int64_t found =
            places_below(weights.data(), limits.data(), end - begin, places.data());
        for (std::int64_t k = 0; k < found; ++k) {
          const std::int64_t j = begin + places[k];
          if (j != own) {
            const std::int64_t node = wide_ ? matching_.row_of[j] : j;
            in_.insert(node, {weights[places[k]], source});
            limits[places[k]] = in_.limit(node);
          }
        }
      });
      for (std::int64_t j = begin; j < end; ++j) {
        const std::int64_t node = wide_ ? matching_.row_of[j] : j;
        if (node >= 0) {
          in_.lower_bound(node, in_.limit(node));
          insert_finite(in_, node, {from_rest_[node], rest()});
        }
      }
    });
  }

  const RowMatrix<T> &matrix_;
  const Classes &classes_;
  const Matching &matching_;
  std::int64_t constant_rows_ = 0, constant_cols_ = 0;
  const double floor_;
  std::vector<double> u_, price_;
  const bool wide_;
  const std::int64_t pairs_;
  std::vector<std::int64_t> spare_;
  std::vector<double> to_rest_, from_rest_;
  EdgeLists out_, in_;
};

// One end of a search: distances from the start along the edges, or to it against them.
struct Front {
  // The k-th edge on the list of a settled node; what it leads to if that is no list's edge.
  struct Event {
    double key;
    std::int32_t node, from, k;
    bool operator<(const Event &other) const { return key > other.key; }
  };
  struct Settled {
    std::int64_t node;
    double dist, bound; // all edges of the node below `bound` have been looked at
  };

  explicit Front(std::int64_t nodes) : dist(nodes, infinity), done(nodes) {}

  double radius() const { return heap.empty() ? infinity : heap.front().key; }

  void clear() {
    for (const std::int64_t node : touched) {
      dist[node] = infinity;
      done[node] = 0;
    }
    touched.clear();
    heap.clear();
    settled.clear();
    constant = false;
  }

  void push(double key, std::int64_t node, std::int64_t from, std::int64_t k) {
    heap.push_back({key, static_cast<std::int32_t>(node), static_cast<std::int32_t>(from),
                    static_cast<std::int32_t>(k)});
    std::push_heap(heap.begin(), heap.end());
  }

  Event pop() {
    std::pop_heap(heap.begin(), heap.end());
    const Event event = heap.back();
    heap.pop_back();
    return event;
  }

  std::vector<double> dist;
  std::vector<char> done;
  std::vector<std::int64_t> touched;
  std::vector<Event> heap;
  std::vector<Settled> settled;
  bool constant = false; // one of the nodes with the same edges is settled
};

// Dijkstra's search from both ends of a cycle (Pohl, Machine Intelligence 6, 1971, 127-140). A
// settled node looks at all its listed edges, so that the fronts meet early, but they enter the
// heap one at a time. The edge that closes the cycle is found on the list of either of its ends or,
// where both lists are too short, by itself.
template <class T> class CycleSearch {
public:
  explicit CycleSearch(const Graph<T> &graph)
      : graph_(graph), ahead_(graph.pairs() + 1), behind_(graph.pairs() + 1) {}

  double through_pair(std::int64_t p, Interrupt &poll) {
    clear();
    start(ahead_, p);
    start(behind_, p);
    return run(poll);
  }

  // From a row without partner to the rest.
  double through_row(std::int64_t i, Interrupt &poll) {
    clear();
    start(behind_, graph_.rest());
    for (std::int64_t p = 0; p < graph_.pairs(); ++p) {
      reach_and_push(ahead_, p, graph_.reduced(i, graph_.col(p)));
    }
    return run(poll);
  }

  // From the rest to a column without partner.
  double through_col(std::int64_t j, Interrupt &poll) {
    clear();
    start(ahead_, graph_.rest());
    for (std::int64_t p = 0; p < graph_.pairs(); ++p) {
      reach_and_push(behind_, p, graph_.reduced(graph_.row(p), j));
    }
    return run(poll);
  }

private:
  void clear() {
    ahead_.clear();
    behind_.clear();
    best_ = infinity;
  }

  static void start(Front &front, std::int64_t node) {
    front.dist[node] = 0;
    front.touched.push_back(node);
    front.push(0.0, node, -1, 0);
  }

  double run(Interrupt &poll) {
    while (ahead_.radius() + behind_.radius() < best_ && !poll.stopped()) {
      step(cheaper(), poll);
    }
    close(poll);
    return best_;
  }

  // Reading all edges of a node costs most, and most of all against their direction: along a
  // column.
  Front &cheaper() {
    if (ahead_.heap.empty() || behind_.heap.empty()) {
      return ahead_.heap.empty() ? behind_ : ahead_;
    }
    const bool at_bound = ahead_.heap.front().node < 0;
    if (at_bound || behind_.heap.front().node < 0) {
      return at_bound && behind_.heap.front().node >= 0 ? behind_ : ahead_;
    }
    return ahead_.settled.size() < behind_.settled.size() ? ahead_ : behind_;
  }

  Front &other(const Front &front) { return &front == &ahead_ ? behind_ : ahead_; }
  const EdgeLists &lists(const Front &front) const {
    return &front == &ahead_ ? graph_.outgoing() : graph_.incoming();
  }

  void step(Front &front, Interrupt &poll) {
    const Front::Event event = front.pop();
    if (event.from >= 0) {
      if (event.node < 0) {
        read_all(front, event.from, poll);
        return;
      }
      push_next(front, event.from, event.k + 1);
    }
    if (front.done[event.node]) {
      return;
    }
    front.done[event.node] = 1;
    if (graph_.is_constant(event.node, &front == &ahead_)) {
      // The first of them has been wherever another could go, at no more cost.
      if (front.constant) {
        return;
      }
      front.constant = true;
    }
    const EdgeLists &listed = lists(front);
    poll(32);
    for (std::int64_t k = 0; k < listed.size(event.node); ++k) {
      const Edge edge = listed.edge(event.node, k);
      if (event.key + edge.weight >= best_) {
        break;
      }
      reach(front, edge.node, event.key + edge.weight);
    }
    front.settled.push_back({event.node, event.key, listed.bound(event.node)});
    push_next(front, static_cast<std::int64_t>(front.settled.size()) - 1, 0);
  }

  // Of the edges from the k-th on, the first that is the best way to where it leads; behind the
  // last comes the bound on the others.
  void push_next(Front &front, std::int64_t from, std::int64_t k) {
    const EdgeLists &listed = lists(front);
    const Front::Settled &settled = front.settled[from];
    for (; k < listed.size(settled.node); ++k) {
      const Edge edge = listed.edge(settled.node, k);
      const double dist = settled.dist + edge.weight;
      if (dist >= best_) {
        return;
      }
      if (dist == front.dist[edge.node] && !front.done[edge.node]) {
        front.push(dist, edge.node, from, k);
        return;
      }
    }
    if (settled.dist + settled.bound < best_) {
      front.push(settled.dist + settled.bound, -1, from, k);
    }
  }

  // Looks at all edges of a settled node.
  void read_all(Front &front, std::int64_t k, Interrupt &poll) {
    poll(8 * graph_.pairs());
    Front::Settled &from = front.settled[k];
    for (std::int64_t node = 0; node <= graph_.pairs(); ++node) {
      reach_and_push(front, node,
                     from.dist + (&front == &ahead_ ? graph_.edge(from.node, node)
                                                    : graph_.edge(node, from.node)));
    }
    from.bound = infinity;
  }

  void reach_and_push(Front &front, std::int64_t node, double dist) {
    const bool known = front.constant && graph_.is_constant(node, &front == &ahead_);
    if (reach(front, node, dist) && !known) {
      front.push(dist, node, -1, 0);
    }
  }

  // Whether that is a shorter way to the node.
  bool reach(Front &front, std::int64_t node, double dist) {
    best_ = std::min(best_, dist + other(front).dist[node]);
    if (!(dist < best_ && dist < front.dist[node])) {
      return false;
    }
    if (front.dist[node] == infinity) {
      front.touched.push_back(node);
    }
    front.dist[node] = dist;
    return true;
  }

  // Edges between the fronts that neither of their nodes has looked at.
  void close(Interrupt &poll) {
    for (const Front::Settled &from : ahead_.settled) {
      if (from.dist + from.bound >= best_) {
        continue;
      }
      poll(static_cast<std::int64_t>(behind_.settled.size()));
      for (const Front::Settled &to : behind_.settled) {
        if (from.dist + to.dist + std::max(from.bound, to.bound) < best_) {
          best_ = std::min(best_, from.dist + to.dist + graph_.edge(from.node, to.node));
        }
      }
    }
  }

  const Graph<T> &graph_;
  Front ahead_, behind_;
  double best_ = infinity;
};

} // namespace

template <class T>
std::vector<double> regrets(const RowMatrix<T> &matrix, const Classes &classes,
                            const Matching &matching, const Certificate &certificate,
                            bool of_columns, int threads, Interrupt &interrupt) {
  Graph<T> graph(matrix, classes, matching, certificate);
  graph.build(threads, interrupt);
  std::vector<double> result(of_columns ? matrix.cols : matrix.rows, infinity);
  Workers workers(interrupt);
  const auto spare = static_cast<std::int64_t>(graph.spare().size());
  const bool lonely = (matrix.rows < matrix.cols) == of_columns;
  parallel_for(
      graph.pairs() + (lonely ? spare : 0), 64, threads, [&](std::int64_t begin, std::int64_t end) {
        CycleSearch<T> search(graph);
        workers.run(begin, end, [&](std::int64_t k, Interrupt &poll) {
          if (k < graph.pairs()) {
            result[of_columns ? graph.col(k) : graph.row(k)] =
                graph.is_interchangeable(k) ? 0.0 : search.through_pair(k, poll);
          } else {
            const std::int64_t x = graph.spare()[k - graph.pairs()];
            result[x] = of_columns ? search.through_col(x, poll) : search.through_row(x, poll);
          }
        });
      });
  return result;
}

template std::vector<double> regrets(const RowMatrix<float> &, const Classes &, const Matching &,
                                     const Certificate &, bool, int, Interrupt &);
template std::vector<double> regrets(const RowMatrix<double> &, const Classes &, const Matching &,
                                     const Certificate &, bool, int, Interrupt &);

} // namespace lmc
