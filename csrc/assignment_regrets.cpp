#include "assignment_regrets.hpp"

#include <algorithm>
#include <limits>
#include <mutex>

#include "assignment_cycle_graph.hpp"
#include "parallel.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// One end of a search: distances from the start along the edges, or to it against them.
struct Front {
  // What an edge leads to, and which it is: the k-th on the list of the settled node `from`.
  // Packed, for there may be more of them than nodes.
  class Event {
  public:
    Event(double dist, std::int64_t to, std::int64_t from, std::int64_t k)
        : key(dist), node(static_cast<std::int32_t>(to)),
          edge_(static_cast<std::int32_t>(from * most_edges + k)) {}

    [[nodiscard]] std::int64_t from() const { return edge_ >> edge_bits; }
    [[nodiscard]] std::int64_t k() const { return edge_ & (most_edges - 1); }
    bool operator<(const Event &other) const { return key > other.key; }

    double key;
    std::int32_t node;

  private:
    static constexpr int edge_bits = 5;
    static constexpr std::int64_t most_edges = 1 << edge_bits;
    static_assert(longest_list < most_edges);

    std::int32_t edge_;
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
  }

  void push(double key, std::int64_t node, std::int64_t from, std::int64_t k) {
    heap.emplace_back(key, node, from, k);
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
};

// Dijkstra's search from both ends of a cycle (Pohl, Machine Intelligence 6, 1971, 127-140). A
// settled node looks at all its listed edges, so that the fronts meet early, but they enter the
// heap one at a time. The edge that closes the cycle is found on the list of either of its ends or,
// where both lists are too short, by itself.
template <class T> class CycleSearch {
public:
  explicit CycleSearch(const CycleGraph<T> &graph)
      : graph_(graph), ahead_(graph.nodes()), behind_(graph.nodes()) {}

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
      reach_and_push(ahead_, graph_.node_of(p), graph_.reduced(i, graph_.col(p)));
    }
    return run(poll);
  }

  // From the rest to a column without partner.
  double through_col(std::int64_t j, Interrupt &poll) {
    clear();
    start(ahead_, graph_.rest());
    for (std::int64_t p = 0; p < graph_.pairs(); ++p) {
      reach_and_push(behind_, graph_.node_of(p), graph_.reduced(graph_.row(p), j));
    }
    return run(poll);
  }

  const SolverWork &work() const { return work_; }

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
    if (event.from() >= 0) {
      if (event.node < 0) {
        read_all(front, event.from(), poll);
        return;
      }
      push_next(front, event.from(), event.k() + 1);
    }
    if (front.done[event.node]) {
      return;
    }
    front.done[event.node] = 1;
    const EdgeLists &listed = lists(front);
    ++work_.list_visits;
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
    ++work_.rows_read;
    poll(8 * graph_.pairs());
    Front::Settled &from = front.settled[k];
    for (std::int64_t node = 0; node < graph_.nodes(); ++node) {
      if (graph_.node_of(node) == node) {
        reach_and_push(front, node,
                       from.dist + (&front == &ahead_ ? graph_.edge(from.node, node)
                                                      : graph_.edge(node, from.node)));
      }
    }
    from.bound = infinity;
  }

  void reach_and_push(Front &front, std::int64_t node, double dist) {
    if (reach(front, node, dist)) {
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

  const CycleGraph<T> &graph_;
  Front ahead_, behind_;
  SolverWork work_;
  double best_ = infinity;
};

} // namespace

template <class T>
std::vector<double> regrets(const RowMatrix<T> &matrix, const Matching &matching,
                            const Certificate &certificate, const Components &components,
                            bool of_columns, int threads, Interrupt &interrupt, SolverWork &work) {
  CycleGraph<T> graph(matrix, matching, certificate, components);
  graph.build(threads, interrupt);
  work.rows_read += 3 * matrix.rows;
  std::vector<double> result(of_columns ? matrix.cols : matrix.rows, infinity);
  Workers workers(interrupt);
  std::mutex counting;
  const auto spare = static_cast<std::int64_t>(graph.spare().size());
  const bool lonely = (matrix.rows < matrix.cols) == of_columns;
  parallel_for(
      graph.pairs() + (lonely ? spare : 0), 64, threads, [&](std::int64_t begin, std::int64_t end) {
        CycleSearch<T> search(graph);
        workers.run(begin, end, [&](std::int64_t k, Interrupt &poll) {
          if (k < graph.pairs()) {
            result[of_columns ? graph.col(k) : graph.row(k)] =
                graph.is_tied(k) ? 0.0 : search.through_pair(k, poll);
          } else {
            const std::int64_t x = graph.spare()[k - graph.pairs()];
            result[x] = of_columns ? search.through_col(x, poll) : search.through_row(x, poll);
          }
        });
        const std::lock_guard<std::mutex> lock(counting);
        work.rows_read += search.work().rows_read;
        work.list_visits += search.work().list_visits;
      });
  return result;
}

template std::vector<double> regrets(const RowMatrix<float> &, const Matching &,
                                     const Certificate &, const Components &, bool, int,
                                     Interrupt &, SolverWork &);
template std::vector<double> regrets(const RowMatrix<double> &, const Matching &,
                                     const Certificate &, const Components &, bool, int,
                                     Interrupt &, SolverWork &);

} // namespace lmc
