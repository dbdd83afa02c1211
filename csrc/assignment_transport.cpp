#include "assignment_transport.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <vector>

#include "assignment_candidates.hpp"
#include "assignment_load_auction.hpp"
#include "assignment_loads.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Shortest paths for whole loads of units.
template <class T> class LoadPaths {
public:
  explicit LoadPaths(Loads<T> &loads)
      : loads_(loads), labels_(loads.sinks.size()), visits_(loads.sources.size()) {}

  SolverResult run() {
    for (std::int64_t r = 0; r < std::ssize(loads_.sources); ++r) {
      while (loads_.sources[r].held < loads_.sources[r].units) {
        const SolverResult result = augment(r);
        if (result != SolverResult::ok) {
          return result;
        }
      }
    }
    return SolverResult::ok;
  }

private:
  using Source = typename Loads<T>::Source;
  using Sink = typename Loads<T>::Sink;

  struct Label {
    double dist = infinity;
    std::int32_t from = -1; // the source it was reached from
    bool done = false;
  };
  struct Visit {
    double base = 0; // distance plus what the source's own sinks yield
    std::int32_t via = -1;
    bool seen = false;
  };

  SolverResult augment(std::int64_t start) {
    ++loads_.work.augmentations;
    heap_.clear();
    std::fill(labels_.begin(), labels_.end(), Label{});
    std::fill(visits_.begin(), visits_.end(), Visit{});
    nearest_ = infinity;
    scan(start, -1, loads_.best_profit(start));
    while (!heap_.empty() && !loads_.interrupt(64)) {
      const Event event = heap_.front();
      if (event.key >= nearest_) {
        break;
      }
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
      if (event.node < 0) {
        widen(~event.node);
      } else if (!labels_[event.node].done && event.key == labels_[event.node].dist) {
        labels_[event.node].done = true;
        const Sink &sink = loads_.sinks[event.node];
        loads_.interrupt(sink.places);
        for (std::int64_t place = sink.first; place < sink.first + sink.places; ++place) {
          if (const std::int64_t r = loads_.owner[place]; !visits_[r].seen) {
            scan(r, event.node, event.key + loads_.profit(r, event.node));
          }
        }
      }
    }
    if (loads_.interrupt.stopped()) {
      return SolverResult::interrupted;
    }
    if (nearest_ == infinity) {
      return SolverResult::infeasible;
    }
    for (std::int64_t v = 0; v < std::ssize(loads_.sinks); ++v) {
      if (labels_[v].done) {
        loads_.set_price(v, loads_.sinks[v].price + (nearest_ - labels_[v].dist));
      }
    }
    shift_loads(start);
    return SolverResult::ok;
  }

  // Source r was reached through one of its sinks.
  void scan(std::int64_t r, std::int64_t via, double base) {
    visits_[r] = {base, static_cast<std::int32_t>(via), true};
    ++loads_.work.list_visits;
    const Source &source = loads_.sources[r];
    for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
      reach(loads_.listed[k],
            base - (loads_.listed_values[k] - loads_.sinks[loads_.listed[k]].price), r);
    }
    if (base - source.bound < nearest_) {
      push(base - source.bound, ~r);
    }
  }

  // The search came to the bound of a list: all sinks count.
  void widen(std::int64_t r) {
    ++loads_.work.rows_read;
    loads_.interrupt(loads_.matrix.cols);
    for (std::int64_t v = 0; v < std::ssize(loads_.sinks); ++v) {
      reach(v, visits_[r].base - loads_.profit(r, v), r);
    }
  }

  void reach(std::int64_t v, double dist, std::int64_t from) {
    if (!(dist < labels_[v].dist && dist < nearest_)) {
      return;
    }
    labels_[v].dist = dist;
    labels_[v].from = static_cast<std::int32_t>(from);
    const auto first = loads_.owner.begin() + loads_.sinks[v].first;
    if (std::find(first, first + loads_.sinks[v].places, -1) != first + loads_.sinks[v].places) {
      nearest_ = dist;
      nearest_sink_ = v;
      return;
    }
    push(dist, v);
  }

  void push(double key, std::int64_t node) {
    heap_.push_back({key, node});
    std::push_heap(heap_.begin(), heap_.end());
  }

  std::int64_t places_of(std::int64_t r, std::int64_t v) const {
    const auto first = loads_.owner.begin() + loads_.sinks[v].first;
    return std::count(first, first + loads_.sinks[v].places, static_cast<std::int32_t>(r));
  }

  // As many units as the way allows move one sink on.
  void shift_loads(std::int64_t start) {
    std::int64_t load = std::min(loads_.sources[start].units - loads_.sources[start].held,
                                 places_of(-1, nearest_sink_));
    for (std::int64_t v = nearest_sink_; labels_[v].from != start;
         v = visits_[labels_[v].from].via) {
      load = std::min(load, places_of(labels_[v].from, visits_[labels_[v].from].via));
    }
    std::int32_t leaver = -1;
    std::int64_t v = nearest_sink_;
    while (true) {
      const std::int32_t comer = labels_[v].from;
      auto place = loads_.owner.begin() + loads_.sinks[v].first;
      for (std::int64_t k = 0; k < load; ++k) {
        place = std::find(place, loads_.owner.end(), leaver);
        *place = comer;
      }
      if (comer == start) {
        break;
      }
      leaver = comer;
      v = visits_[comer].via;
    }
    loads_.sources[start].held += load;
  }

  Loads<T> &loads_;
  std::vector<Label> labels_;
  std::vector<Visit> visits_;
  std::vector<Event> heap_;
  double nearest_ = infinity;
  std::int64_t nearest_sink_ = -1;
};

} // namespace

template <class T>
SolverResult solve_transport(const RowMatrix<T> &matrix, const Copies &copies, Matching &matching,
                             const SolverOptions &options, Interrupt &interrupt, SolverWork &work) {
  Loads<T> loads(matrix, copies, matching.price, interrupt, work);
  if (!LoadAuction<T>(loads).run(options)) {
    return SolverResult::interrupted;
  }
  const SolverResult result = LoadPaths<T>(loads).run();
  if (result == SolverResult::ok) {
    loads.deal(matching);
  }
  return result;
}

template SolverResult solve_transport(const RowMatrix<float> &, const Copies &, Matching &,
                                      const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_transport(const RowMatrix<double> &, const Copies &, Matching &,
                                      const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc