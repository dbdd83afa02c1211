#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "assignment_candidates.hpp"
#include "assignment_loads.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// An auction in which a source bids for all its units at once and a sink is as dear as the cheapest
// of its places (Bertsekas and Castanon, Annals of Operations Research 20, 1989, 67-96).
template <class T> class LoadAuction {
public:
  explicit LoadAuction(Loads<T> &loads)
      : loads_(loads), step_(std::ldexp(1.0, -loads.matrix.grid.bits)), asked_(loads.order) {}

  // Leaves loads that are optimal but for the units that have no place.
  bool run(const SolverOptions &options) {
    if (!bid_all(0.0, 2 * loads_.order)) {
      return false;
    }
    if (options.scales(loads_.open_units(), loads_.order)) {
      const Sample seen = sample();
      for (const double share : list_shares) {
        if (!seen.tied && options.uses(share) &&
            !bid_all(std::ceil(seen.spread * share / step_) * step_, 16 * loads_.order)) {
          return false;
        }
      }
      if (!seen.tied && !bid_all(0.0, 2 * loads_.order)) {
        return false;
      }
    }
    for (std::int64_t r = 0; r < std::ssize(loads_.sources); ++r) {
      Source &source = loads_.sources[r];
      const double best = loads_.best_profit(r);
      const auto first = loads_.held.begin() + source.first_unit;
      const auto kept = std::partition(first, first + source.held, [&](std::int32_t place) {
        return loads_.profit(r, loads_.sink_of[place]) >= best;
      });
      std::for_each(kept, first + source.held,
                    [this](std::int32_t place) { loads_.owner[place] = -1; });
      source.held = kept - first;
      if (loads_.interrupt.stopped()) {
        return false;
      }
    }
    return true;
  }

private:
  using Source = typename Loads<T>::Source;
  using Sink = typename Loads<T>::Sink;
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  // A sink or, once that is opened (place >= 0), one of its places. At equal profit a source keeps
  // what it has, and takes what nobody has before it takes what others have.
  struct Offer {
    double profit;
    std::int32_t place, sink;
    std::int32_t rank;
    double value;
    bool operator<(const Offer &other) const {
      return profit < other.profit || (profit == other.profit && rank > other.rank);
    }
  };

  // The best places for all units of source r, and the best that is left in two different sinks.
  void choose(std::int64_t r, double epsilon) {
    ++loads_.work.list_visits;
    const Source &source = loads_.sources[r];
    offers_.clear();
    taken_.clear();
    for (std::int64_t k = source.first_unit; k < source.first_unit + source.held; ++k) {
      const std::int32_t v = loads_.sink_of[loads_.held[k]];
      const double x = loads_.value(r, v);
      offers_.push_back({x - asked_[loads_.held[k]] + epsilon, loads_.held[k], v, 0, x});
    }
    for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
      const std::int32_t v = loads_.listed[k];
      offers_.push_back(
          {loads_.listed_values[k] - loads_.sinks[v].price, -1, v, 1, loads_.listed_values[k]});
    }
    std::make_heap(offers_.begin(), offers_.end());
    while (std::ssize(taken_) < source.units && !offers_.empty()) {
      std::pop_heap(offers_.begin(), offers_.end());
      const Offer offer = offers_.back();
      offers_.pop_back();
      if (offer.place >= 0) {
        taken_.push_back(offer);
        continue;
      }
      const Sink &sink = loads_.sinks[offer.sink];
      loads_.interrupt(sink.places);
      for (std::int64_t place = sink.first; place < sink.first + sink.places; ++place) {
        if (loads_.owner[place] != r) {
          offers_.push_back({offer.value - asked_[place], static_cast<std::int32_t>(place),
                             offer.sink, loads_.owner[place] < 0 ? 1 : 2, offer.value});
          std::push_heap(offers_.begin(), offers_.end());
        }
      }
    }
    left_[0] = left_[1] = {-infinity, -1};
    for (const Offer &offer : offers_) {
      const Left left{offer.profit - (offer.rank == 0 ? epsilon : 0.0), offer.sink};
      if (left.sink == left_[0].sink) {
        left_[0].profit = std::max(left_[0].profit, left.profit);
      } else if (left.profit > left_[0].profit) {
        left_[1] = left_[0];
        left_[0] = left;
      } else if (left.profit > left_[1].profit) {
        left_[1] = left;
      }
    }
  }

  // Source r takes what is best and pays until it is indifferent, but for epsilon, to what is left
  // in other sinks. Without a raise it displaces nobody. Returns the work it was.
  std::int64_t bid(std::int64_t r, double epsilon) {
    Source &source = loads_.sources[r];
    if (source.bound == infinity) {
      loads_.collect(r);
    }
    if (source.held == source.units && is_content(r, epsilon)) {
      return 0;
    }
    choose(r, epsilon);
    if (left_[1].profit < source.bound) {
      loads_.collect(r);
      choose(r, epsilon);
    }
    for (std::int64_t k = source.first_unit; k < source.first_unit + source.held; ++k) {
      loads_.owner[loads_.held[k]] = -1;
    }
    source.held = 0;
    for (const Offer &offer : taken_) {
      const double level = left_[offer.sink == left_[0].sink ? 1 : 0].profit;
      const double raised = level > -infinity ? offer.value - level + epsilon : -infinity;
      double &asked = asked_[offer.place];
      if (offer.rank == 2) {
        if (raised <= asked) {
          continue;
        }
        lose(loads_.owner[offer.place], offer.place);
      }
      asked = std::max(asked, raised);
      loads_.owner[offer.place] = static_cast<std::int32_t>(r);
      loads_.held[source.first_unit + source.held++] = offer.place;
    }
    for (const Offer &offer : taken_) {
      const Sink &sink = loads_.sinks[offer.sink];
      const auto first = asked_.begin() + sink.first;
      const double price = *std::min_element(first, first + sink.places);
      if (price > sink.price) {
        loads_.set_price(offer.sink, price);
      }
    }
    return std::ssize(taken_);
  }

  bool is_content(std::int64_t r, double epsilon) {
    const Source &source = loads_.sources[r];
    const double least = loads_.best_profit(r) - epsilon;
    return std::all_of(
        loads_.held.begin() + source.first_unit,
        loads_.held.begin() + source.first_unit + source.held,
        [&](std::int32_t place) { return loads_.profit(r, loads_.sink_of[place]) >= least; });
  }

  void lose(std::int64_t r, std::int32_t place) {
    Source &source = loads_.sources[r];
    const auto first = loads_.held.begin() + source.first_unit;
    *std::find(first, first + source.held, place) = *(first + source.held - 1);
    if (source.held-- == source.units) {
      waiting_.push_back(static_cast<std::int32_t>(r));
    }
  }

  // All sources bid, and those that lose a unit bid again, until the budget is spent.
  bool bid_all(double epsilon, std::int64_t budget) {
    for (std::int64_t v = 0; v < std::ssize(loads_.sinks); ++v) {
      std::fill_n(asked_.begin() + loads_.sinks[v].first, loads_.sinks[v].places,
                  loads_.sinks[v].price);
    }
    waiting_.resize(loads_.sources.size());
    std::iota(waiting_.rbegin(), waiting_.rend(), 0);
    while (!waiting_.empty() && budget > 0) {
      const std::int64_t r = waiting_.back();
      waiting_.pop_back();
      budget -= bid(r, epsilon);
      if (loads_.interrupt(64 + std::ssize(offers_))) {
        return false;
      }
    }
    return true;
  }

  // What two fifths or so of a sample of sources say. `tied`: several sinks are best at no price.
  struct Sample {
    bool tied;
    double spread;
  };
  Sample sample() {
    std::vector<double> values(loads_.sinks.size());
    std::int64_t tied = 0;
    std::int64_t seen = 0;
    double spread = 0;
    for (std::int64_t r = 0; r < loads_.real_sources; r += loads_.real_sources / 32 + 1) {
      std::int64_t best = 0;
      double most = -infinity;
      for (std::int64_t v = 0; v < std::ssize(loads_.sinks); ++v) {
        const double x = loads_.value(r, v);
        best = x > most ? 1 : best + (x == most);
        most = std::max(most, x);
        values[v] = x - loads_.sinks[v].price;
      }
      ++seen;
      tied += best > 1;
      const auto place = values.begin() + std::min<std::int64_t>(std::ssize(values) - 1, 15);
      std::nth_element(values.begin(), place, values.end(), std::greater<>());
      const double reach = *std::max_element(values.begin(), place + 1) - *place;
      spread += reach < infinity ? reach : 0.0;
    }
    return {5 * tied > 2 * seen, spread / static_cast<double>(std::max<std::int64_t>(seen, 1))};
  }

  Loads<T> &loads_;
  const double step_;
  std::vector<double> asked_; // for every place
  std::vector<std::int32_t> waiting_;
  std::vector<Offer> offers_, taken_;
  struct Left {
    double profit;
    std::int32_t sink;
  } left_[2];
};

} // namespace lmc
