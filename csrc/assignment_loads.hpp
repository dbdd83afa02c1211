#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <vector>

#include "assignment_candidates.hpp"
#include "assignment_copies.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// Which places of which sinks the units of every source hold, and what the sinks cost. Sources look
// at lists with bounds, as in solve_lists.
template <class T> class Loads {
public:
  struct Source {
    std::int64_t units = 0, held = 0;
    std::int64_t first_unit = 0; // its places stand from there on in `held`
    std::int64_t first_listed = 0, listed = 0;
    double bound = infinity; // on the profit at sinks that are not listed; infinite before a look
  };
  struct Sink {
    std::int64_t places = 0, first = 0;
    double price = 0;
  };

  Loads(const RowMatrix<T> &given, const Copies &copies, const std::vector<double> &price,
        Interrupt &poll, SolverWork &counts)
      : matrix(given), interrupt(poll), work(counts), order(std::max(given.rows, given.cols)),
        real_sources(std::ssize(copies.first_row)), real_sinks(std::ssize(copies.first_col)),
        sources(real_sources + (given.rows < given.cols)),
        sinks(real_sinks + (given.rows > given.cols)), sink_of(order), owner(order, -1),
        held(order), copies_(copies), candidates_(given) {
    for (const std::int64_t r : copies.row_kind) {
      ++sources[r].units;
    }
    for (const std::int64_t v : copies.col_kind) {
      ++sinks[v].places;
    }
    if (matrix.rows < matrix.cols) {
      sources.back().units = matrix.cols - matrix.rows;
    } else if (matrix.rows > matrix.cols) {
      sinks.back().places = matrix.rows - matrix.cols;
    }
    std::int64_t place = 0;
    for (std::int64_t v = 0; v < std::ssize(sinks); ++v) {
      sinks[v].first = place;
      std::fill_n(sink_of.begin() + place, sinks[v].places, static_cast<std::int32_t>(v));
      place += sinks[v].places;
      set_price(v, v < real_sinks ? price[copies.first_col[v]] : 0.0);
    }
    std::int64_t unit = 0;
    std::int64_t places = 0;
    for (std::int64_t r = 0; r < std::ssize(sources); ++r) {
      sources[r].first_unit = unit;
      sources[r].first_listed = places;
      unit += sources[r].units;
      places += list_length(r);
    }
    listed_values.resize(places);
    listed.resize(places);
  }

  double value(std::int64_t r, std::int64_t v) const {
    return r < real_sources && v < real_sinks
               ? matrix.exact(copies_.first_row[r], copies_.first_col[v])
               : 0.0;
  }
  double profit(std::int64_t r, std::int64_t v) const { return value(r, v) - sinks[v].price; }

  void set_price(std::int64_t v, double price) {
    sinks[v].price = price;
    largest_price_ = std::max(largest_price_, std::abs(price));
    if (v < real_sinks) {
      // The other columns of the kind have no price and stay out of the lists.
      candidates_.set_price(copies_.first_col[v], price);
    }
  }

  // Reads the row of source r: its list becomes the best sinks at the present prices.
  void collect(std::int64_t r) {
    ++work.rows_read;
    interrupt(2 * matrix.cols);
    Source &source = sources[r];
    const std::int64_t wanted = list_length(r);
    source.bound = -infinity;
    found_.clear();
    if (r >= real_sources || 4 * wanted > std::ssize(sinks)) {
      for (std::int64_t v = 0; v < std::ssize(sinks); ++v) {
        if (const double x = value(r, v); x > -infinity) {
          found_.push_back({x - sinks[v].price, x, static_cast<std::int32_t>(v)});
        }
      }
    } else {
      const auto [cols, bound] = candidates_.read(copies_.first_row[r], wanted, largest_price_);
      source.bound = bound;
      for (const std::int32_t j : cols) {
        const auto v = static_cast<std::int32_t>(copies_.col_kind[j]);
        const double x = value(r, v);
        found_.push_back({x - sinks[v].price, x, v});
      }
      if (real_sinks < std::ssize(sinks)) {
        found_.push_back({-sinks.back().price, 0.0, static_cast<std::int32_t>(real_sinks)});
      }
    }
    if (std::ssize(found_) > wanted) {
      std::nth_element(found_.begin(), found_.begin() + wanted, found_.end(),
                       [](const Candidate &a, const Candidate &b) {
                         return a.profit > b.profit || (a.profit == b.profit && a.sink < b.sink);
                       });
      source.bound = std::max(source.bound, found_[wanted].profit);
      found_.resize(wanted);
    }
    source.listed = std::ssize(found_);
    for (std::int64_t k = 0; k < source.listed; ++k) {
      listed_values[source.first_listed + k] = found_[k].value;
      listed[source.first_listed + k] = found_[k].sink;
    }
  }

  double best_profit(std::int64_t r) {
    const auto visit = [this, r] {
      ++work.list_visits;
      const Source &source = sources[r];
      double best = -infinity;
      for (std::int64_t k = source.first_listed; k < source.first_listed + source.listed; ++k) {
        best = std::max(best, listed_values[k] - sinks[listed[k]].price);
      }
      return best;
    };
    const double best = visit();
    if (best >= sources[r].bound) {
      return best;
    }
    collect(r);
    return visit();
  }

  std::int64_t open_units() const {
    std::int64_t open = 0;
    for (const Source &source : sources) {
      open += source.units - source.held;
    }
    return open;
  }

  // Gives rows and columns of each kind to each other.
  void deal(Matching &matching) const {
    std::vector<std::int64_t> next_place(sinks.size()), next_row(sources.size());
    std::vector<std::int64_t> row_at(order);
    for (std::int64_t r = 0; r < std::ssize(sources); ++r) {
      next_row[r] = sources[r].first_unit;
    }
    for (std::int64_t i = 0; i < order; ++i) {
      row_at[next_row[i < matrix.rows ? copies_.row_kind[i] : real_sources]++] = i;
    }
    for (std::int64_t r = 0; r < std::ssize(sources); ++r) {
      next_row[r] = sources[r].first_unit;
    }
    for (std::int64_t j = 0; j < order; ++j) {
      const std::int64_t v = j < matrix.cols ? copies_.col_kind[j] : real_sinks;
      const std::int64_t i = row_at[next_row[owner[sinks[v].first + next_place[v]++]]++];
      matching.row_of[j] = i;
      matching.col_of[i] = j;
      matching.price[j] = sinks[v].price;
    }
  }

  const RowMatrix<T> &matrix;
  Interrupt &interrupt;
  SolverWork &work;
  const std::int64_t order;
  const std::int64_t real_sources, real_sinks; // the others are the dummies of a rectangle
  std::vector<Source> sources;
  std::vector<Sink> sinks;
  std::vector<std::int32_t> sink_of, owner; // of every place; nobody: -1
  std::vector<std::int32_t> held;
  std::vector<double> listed_values; // of the listed sinks
  std::vector<std::int32_t> listed;

private:
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  struct Candidate {
    double profit, value;
    std::int32_t sink;
  };

  // Two sinks are left over when each unit has a place in another one.
  std::int64_t list_length(std::int64_t r) const {
    const std::int64_t spare = std::clamp<std::int64_t>(std::ssize(sinks) / 64, 14, 46);
    return std::min(std::ssize(sinks), sources[r].units + 2 + spare);
  }

  const Copies &copies_;
  CandidateScan<RowMatrix<T>> candidates_;
  std::vector<Candidate> found_;
  double largest_price_ = 0;
};

} // namespace lmc
