#include "assignment_transport.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "assignment_candidates.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// An auction in which a source bids for all its units at once and a sink is as dear as the cheapest
// of its places (Bertsekas and Castanon, Annals of Operations Research 20, 1989, 67-96), then
// shortest paths for whole loads of units. Sources look at lists with bounds, as in solve_lists.
template <class T> class TransportSolver {
public:
  TransportSolver(const RowMatrix<T> &matrix, const Copies &copies, Matching &matching,
                  Interrupt &interrupt, SolverWork &work)
      : matrix_(matrix), copies_(copies), matching_(matching), interrupt_(interrupt), work_(work),
        order_(std::max(matrix.rows, matrix.cols)), step_(std::ldexp(1.0, -matrix.grid.bits)),
        real_sources_(size(copies.first_row)), real_sinks_(size(copies.first_col)),
        candidates_(matrix), sources_(real_sources_ + (matrix.rows < matrix.cols)),
        sinks_(real_sinks_ + (matrix.rows > matrix.cols)), asked_(order_), sink_of_(order_),
        owner_(order_, -1), held_(order_) {
    for (const std::int64_t r : copies.row_kind) {
      ++sources_[r].units;
    }
    for (const std::int64_t v : copies.col_kind) {
      ++sinks_[v].places;
    }
    if (matrix.rows < matrix.cols) {
      sources_.back().units = matrix.cols - matrix.rows;
    } else if (matrix.rows > matrix.cols) {
      sinks_.back().places = matrix.rows - matrix.cols;
    }
    std::int64_t place = 0;
    for (std::int64_t v = 0; v < size(sinks_); ++v) {
      sinks_[v].first = place;
      std::fill_n(sink_of_.begin() + place, sinks_[v].places, static_cast<std::int32_t>(v));
      place += sinks_[v].places;
      set_price(v, v < real_sinks_ ? matching.price[copies.first_col[v]] : 0.0);
    }
    std::int64_t unit = 0;
    std::int64_t listed = 0;
    for (std::int64_t r = 0; r < size(sources_); ++r) {
      sources_[r].first_unit = unit;
      sources_[r].first_listed = listed;
      unit += sources_[r].units;
      listed += list_length(r);
    }
    values_.resize(listed);
    listed_.resize(listed);
  }

  SolverResult run(const SolverOptions &options) {
    if (!auction(options)) {
      return SolverResult::interrupted;
    }
    const SolverResult result = augment_all();
    if (result == SolverResult::ok) {
      deal();
    }
    return result;
  }

private:
  struct Source {
    std::int64_t units = 0, held = 0;
    std::int64_t first_unit = 0; // its places stand from there on in held_
    std::int64_t first_listed = 0, listed = 0;
    double bound = infinity; // on the profit at sinks that are not listed; infinite before a look
  };
  struct Sink {
    std::int64_t places = 0, first = 0;
    double price = 0;
  };

  template <class Values> static std::int64_t size(const Values &values) {
    return static_cast<std::int64_t>(values.size());
  }

  double value(std::int64_t r, std::int64_t v) const {
    return r < real_sources_ && v < real_sinks_
               ? matrix_.exact(copies_.first_row[r], copies_.first_col[v])
               : 0.0;
  }
  double profit(std::int64_t r, std::int64_t v) const { return value(r, v) - sinks_[v].price; }

  void set_price(std::int64_t v, double price) {
    sinks_[v].price = price;
    largest_price_ = std::max(largest_price_, std::abs(price));
    if (v < real_sinks_) {
      // The other columns of the kind have no price and stay out of the lists.
      candidates_.set_price(copies_.first_col[v], price);
    }
  }

  // Two sinks are left over when each unit has a place in another one.
  std::int64_t list_length(std::int64_t r) const {
    const std::int64_t spare = std::clamp<std::int64_t>(size(sinks_) / 64, 14, 46);
    return std::min(size(sinks_), sources_[r].units + 2 + spare);
  }

  // Reads the row of source r: its list becomes the best sinks at the present prices.
  void collect(std::int64_t r) {
    ++work_.rows_read;
    interrupt_(2 * matrix_.cols);
    Source &source = sources_[r];
    const std::int64_t wanted = list_length(r);
    source.bound = -infinity;
    found_.clear();
    if (r >= real_sources_ || 4 * wanted > size(sinks_)) {
      for (std::int64_t v = 0; v < size(sinks_); ++v) {
        if (const double x = value(r, v); x > -infinity) {
          found_.push_back({x - sinks_[v].price, -1, static_cast<std::int32_t>(v), 1, x});
        }
      }
    } else {
      const auto [cols, bound] = candidates_.read(copies_.first_row[r], wanted, largest_price_);
      source.bound = bound;
      for (const std::int32_t j : cols) {
        const auto v = static_cast<std::int32_t>(copies_.col_kind[j]);
        const double x = value(r, v);
        found_.push_back({x - sinks_[v].price, -1, v, 1, x});
      }
      if (real_sinks_ < size(sinks_)) {
        found_.push_back(
            {-sinks_.back().price, -1, static_cast<std::int32_t>(real_sinks_), 1, 0.0});
      }
    }
    if (size(found_) > wanted) {
      std::nth_element(found_.begin(), found_.begin() + wanted, found_.end(),
                       [](const Offer &a, const Offer &b) {
                         return a.profit > b.profit || (a.profit == b.profit && a.sink < b.sink);
                       });
      source.bound = std::max(source.bound, found_[wanted].profit);
      found_.resize(wanted);
    }
    source.listed = size(found_);
    for (std::int64_t k = 0; k < source.listed; ++k) {
      values_[source.first_listed + k] = found_[k].value;
      listed_[source.first_listed + k] = found_[k].sink;
    }
  }

  double best_profit(std::int64_t r) {
    const auto visit = [this, r] {
      ++work_.list_visits;
      const Source &source = sources_[r];
      double best = -infinity;
      for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
        best = std::max(best, values_[k] - sinks_[listed_[k]].price);
      }
      return best;
    };
    const double best = visit();
    if (best >= sources_[r].bound) {
      return best;
    }
    collect(r);
    return visit();
  }

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
    ++work_.list_visits;
    const Source &source = sources_[r];
    offers_.clear();
    taken_.clear();
    for (std::int64_t k = source.first_unit; k < source.first_unit + source.held; ++k) {
      const std::int32_t v = sink_of_[held_[k]];
      const double x = value(r, v);
      offers_.push_back({x - asked_[held_[k]] + epsilon, held_[k], v, 0, x});
    }
    for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
      const std::int32_t v = listed_[k];
      offers_.push_back({values_[k] - sinks_[v].price, -1, v, 1, values_[k]});
    }
    std::make_heap(offers_.begin(), offers_.end());
    while (size(taken_) < source.units && !offers_.empty()) {
      std::pop_heap(offers_.begin(), offers_.end());
      const Offer offer = offers_.back();
      offers_.pop_back();
      if (offer.place >= 0) {
        taken_.push_back(offer);
        continue;
      }
      const Sink &sink = sinks_[offer.sink];
      interrupt_(sink.places);
      for (std::int64_t place = sink.first; place < sink.first + sink.places; ++place) {
        if (owner_[place] != r) {
          offers_.push_back({offer.value - asked_[place], static_cast<std::int32_t>(place),
                             offer.sink, owner_[place] < 0 ? 1 : 2, offer.value});
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
    Source &source = sources_[r];
    if (source.bound == infinity) {
      collect(r);
    }
    if (source.held == source.units && is_content(r, epsilon)) {
      return 0;
    }
    choose(r, epsilon);
    if (left_[1].profit < source.bound) {
      collect(r);
      choose(r, epsilon);
    }
    for (std::int64_t k = source.first_unit; k < source.first_unit + source.held; ++k) {
      owner_[held_[k]] = -1;
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
        lose(owner_[offer.place], offer.place);
      }
      asked = std::max(asked, raised);
      owner_[offer.place] = static_cast<std::int32_t>(r);
      held_[source.first_unit + source.held++] = offer.place;
    }
    for (const Offer &offer : taken_) {
      const Sink &sink = sinks_[offer.sink];
      const auto first = asked_.begin() + sink.first;
      const double price = *std::min_element(first, first + sink.places);
      if (price > sink.price) {
        set_price(offer.sink, price);
      }
    }
    return size(taken_);
  }

  bool is_content(std::int64_t r, double epsilon) {
    const Source &source = sources_[r];
    const double least = best_profit(r) - epsilon;
    return std::all_of(held_.begin() + source.first_unit,
                       held_.begin() + source.first_unit + source.held,
                       [&](std::int32_t place) { return profit(r, sink_of_[place]) >= least; });
  }

  void lose(std::int64_t r, std::int32_t place) {
    Source &source = sources_[r];
    const auto first = held_.begin() + source.first_unit;
    *std::find(first, first + source.held, place) = *(first + source.held - 1);
    if (source.held-- == source.units) {
      waiting_.push_back(static_cast<std::int32_t>(r));
    }
  }

  // All sources bid, and those that lose a unit bid again, until the budget is spent.
  bool bid_all(double epsilon, std::int64_t budget) {
    for (std::int64_t v = 0; v < size(sinks_); ++v) {
      std::fill_n(asked_.begin() + sinks_[v].first, sinks_[v].places, sinks_[v].price);
    }
    waiting_.resize(sources_.size());
    std::iota(waiting_.rbegin(), waiting_.rend(), 0);
    while (!waiting_.empty() && budget > 0) {
      const std::int64_t r = waiting_.back();
      waiting_.pop_back();
      budget -= bid(r, epsilon);
      if (interrupt_(64 + size(offers_))) {
        return false;
      }
    }
    return true;
  }

  std::int64_t open_units() const {
    std::int64_t open = 0;
    for (const Source &source : sources_) {
      open += source.units - source.held;
    }
    return open;
  }

  // What two fifths or so of a sample of sources say. `tied`: several sinks are best at no price.
  struct Sample {
    bool tied;
    double spread;
  };
  Sample sample() {
    std::vector<double> values(sinks_.size());
    std::int64_t tied = 0;
    std::int64_t seen = 0;
    double spread = 0;
    for (std::int64_t r = 0; r < real_sources_; r += real_sources_ / 32 + 1) {
      std::int64_t best = 0;
      double most = -infinity;
      for (std::int64_t v = 0; v < size(sinks_); ++v) {
        const double x = value(r, v);
        best = x > most ? 1 : best + (x == most);
        most = std::max(most, x);
        values[v] = x - sinks_[v].price;
      }
      ++seen;
      tied += best > 1;
      const auto place = values.begin() + std::min<std::int64_t>(size(values) - 1, 15);
      std::nth_element(values.begin(), place, values.end(), std::greater<>());
      const double reach = *std::max_element(values.begin(), place + 1) - *place;
      spread += reach < infinity ? reach : 0.0;
    }
    return {5 * tied > 2 * seen, spread / static_cast<double>(std::max<std::int64_t>(seen, 1))};
  }

  // Leaves loads that are optimal but for the units that have no place.
  bool auction(const SolverOptions &options) {
    if (!bid_all(0.0, 2 * order_)) {
      return false;
    }
    if (options.scales(open_units(), order_)) {
      const Sample seen = sample();
      for (const double share : list_shares) {
        if (!seen.tied && options.uses(share) &&
            !bid_all(std::ceil(seen.spread * share / step_) * step_, 16 * order_)) {
          return false;
        }
      }
      if (!seen.tied && !bid_all(0.0, 2 * order_)) {
        return false;
      }
    }
    for (std::int64_t r = 0; r < size(sources_); ++r) {
      Source &source = sources_[r];
      const double best = best_profit(r);
      const auto first = held_.begin() + source.first_unit;
      const auto kept = std::partition(first, first + source.held, [&](std::int32_t place) {
        return profit(r, sink_of_[place]) >= best;
      });
      std::for_each(kept, first + source.held, [this](std::int32_t place) { owner_[place] = -1; });
      source.held = kept - first;
      if (interrupt_.stopped()) {
        return false;
      }
    }
    return true;
  }

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

  SolverResult augment_all() {
    labels_.resize(sinks_.size());
    visits_.resize(sources_.size());
    for (std::int64_t r = 0; r < size(sources_); ++r) {
      while (sources_[r].held < sources_[r].units) {
        const SolverResult result = augment(r);
        if (result != SolverResult::ok) {
          return result;
        }
      }
    }
    return SolverResult::ok;
  }

  SolverResult augment(std::int64_t start) {
    ++work_.augmentations;
    heap_.clear();
    std::fill(labels_.begin(), labels_.end(), Label{});
    std::fill(visits_.begin(), visits_.end(), Visit{});
    nearest_ = infinity;
    scan(start, -1, best_profit(start));
    while (!heap_.empty() && !interrupt_(64)) {
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
        const Sink &sink = sinks_[event.node];
        interrupt_(sink.places);
        for (std::int64_t place = sink.first; place < sink.first + sink.places; ++place) {
          if (const std::int64_t r = owner_[place]; !visits_[r].seen) {
            scan(r, event.node, event.key + profit(r, event.node));
          }
        }
      }
    }
    if (interrupt_.stopped()) {
      return SolverResult::interrupted;
    }
    if (nearest_ == infinity) {
      return SolverResult::infeasible;
    }
    for (std::int64_t v = 0; v < size(sinks_); ++v) {
      if (labels_[v].done) {
        set_price(v, sinks_[v].price + (nearest_ - labels_[v].dist));
      }
    }
    shift_loads(start);
    return SolverResult::ok;
  }

  // Source r was reached through one of its sinks.
  void scan(std::int64_t r, std::int64_t via, double base) {
    visits_[r] = {base, static_cast<std::int32_t>(via), true};
    ++work_.list_visits;
    const Source &source = sources_[r];
    for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
      reach(listed_[k], base - (values_[k] - sinks_[listed_[k]].price), r);
    }
    if (base - source.bound < nearest_) {
      push(base - source.bound, ~r);
    }
  }

  // The search came to the bound of a list: all sinks count.
  void widen(std::int64_t r) {
    ++work_.rows_read;
    interrupt_(matrix_.cols);
    for (std::int64_t v = 0; v < size(sinks_); ++v) {
      reach(v, visits_[r].base - profit(r, v), r);
    }
  }

  void reach(std::int64_t v, double dist, std::int64_t from) {
    if (!(dist < labels_[v].dist && dist < nearest_)) {
      return;
    }
    labels_[v].dist = dist;
    labels_[v].from = static_cast<std::int32_t>(from);
    const auto first = owner_.begin() + sinks_[v].first;
    if (std::find(first, first + sinks_[v].places, -1) != first + sinks_[v].places) {
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
    const auto first = owner_.begin() + sinks_[v].first;
    return std::count(first, first + sinks_[v].places, static_cast<std::int32_t>(r));
  }

  // As many units as the way allows move one sink on.
  void shift_loads(std::int64_t start) {
    std::int64_t load =
        std::min(sources_[start].units - sources_[start].held, places_of(-1, nearest_sink_));
    for (std::int64_t v = nearest_sink_; labels_[v].from != start;
         v = visits_[labels_[v].from].via) {
      load = std::min(load, places_of(labels_[v].from, visits_[labels_[v].from].via));
    }
    std::int32_t leaver = -1;
    std::int64_t v = nearest_sink_;
    while (true) {
      const std::int32_t comer = labels_[v].from;
      auto place = owner_.begin() + sinks_[v].first;
      for (std::int64_t k = 0; k < load; ++k) {
        place = std::find(place, owner_.end(), leaver);
        *place = comer;
      }
      if (comer == start) {
        break;
      }
      leaver = comer;
      v = visits_[comer].via;
    }
    sources_[start].held += load;
  }

  // Gives rows and columns of each kind to each other.
  void deal() {
    std::vector<std::int64_t> next_place(sinks_.size()), next_row(sources_.size());
    std::vector<std::int64_t> row_at(order_);
    for (std::int64_t r = 0; r < size(sources_); ++r) {
      next_row[r] = sources_[r].first_unit;
    }
    for (std::int64_t i = 0; i < order_; ++i) {
      row_at[next_row[i < matrix_.rows ? copies_.row_kind[i] : real_sources_]++] = i;
    }
    for (std::int64_t r = 0; r < size(sources_); ++r) {
      next_row[r] = sources_[r].first_unit;
    }
    for (std::int64_t j = 0; j < order_; ++j) {
      const std::int64_t v = j < matrix_.cols ? copies_.col_kind[j] : real_sinks_;
      const std::int64_t i = row_at[next_row[owner_[sinks_[v].first + next_place[v]++]]++];
      matching_.row_of[j] = i;
      matching_.col_of[i] = j;
      matching_.price[j] = sinks_[v].price;
    }
  }

  const RowMatrix<T> &matrix_;
  const Copies &copies_;
  Matching &matching_;
  Interrupt &interrupt_;
  SolverWork &work_;
  const std::int64_t order_;
  const double step_;
  const std::int64_t real_sources_, real_sinks_; // the others are the dummies of a rectangle
  CandidateScan<T> candidates_;
  std::vector<Source> sources_;
  std::vector<Sink> sinks_;
  double largest_price_ = 0;
  std::vector<double> asked_; // for every place
  std::vector<std::int32_t> sink_of_, owner_, held_;
  std::vector<double> values_; // of the listed sinks
  std::vector<std::int32_t> listed_, waiting_;
  std::vector<Offer> found_, offers_, taken_;
  struct Left {
    double profit;
    std::int32_t sink;
  } left_[2];
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
  return TransportSolver<T>(matrix, copies, matching, interrupt, work).run(options);
}

template SolverResult solve_transport(const RowMatrix<float> &, const Copies &, Matching &,
                                      const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_transport(const RowMatrix<double> &, const Copies &, Matching &,
                                      const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc
