#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "assignment_solver.hpp"

namespace lmc {

// What a row prefers: its best profit, the second best (equal under a tie) and the best's column.
struct Choice {
  double best, second;
  std::int64_t col;
};

// Gauss-Seidel auction with epsilon scaling (Bertsekas, Annals of Operations Research 14, 1988,
// 105-123) on the squared problem. How rows are looked at is the derived solver's:
//   choose(i, epsilon)  the two best columns of row i, within looseness(epsilon) of the truth
//   choose(rows, epsilon)  the same of two rows
//   is_dense            whether a look is at a whole row: one without company then takes as long as
//                       two, and as a step of a search
//   choose_best(i)      the same, where `second` may be too small
//   free_tie(i, best)   a column nobody holds that yields row i `best`, or -1
//   profit(i, j)        exactly
//   price_set(j)        is told of a new price
//   spread(i)           a scale for epsilon: by how much row i prefers its best few columns
template <class Solver> class Auction {
protected:
  static constexpr double infinity = std::numeric_limits<double>::infinity();
  static constexpr double coarser_by = 7; // epsilon, where the first one turns out to be too small

  Auction(std::int64_t order, const Classes &classes, Matching &matching, double step,
          Interrupt &interrupt)
      : n_(order), classes_(classes), matching_(matching), step_(step), interrupt_(interrupt) {
    for (std::int64_t j = 0; j < n_; ++j) {
      if (is_class(classes.col_value[j])) {
        class_cols_.push_back(j);
      }
    }
    free_.reserve(n_);
    rows_.resize(n_);
    std::iota(rows_.begin(), rows_.end(), std::int64_t{0});
    const auto constant = [&](std::int64_t i) { return is_class(classes.row_value[i]); };
    std::copy_if(rows_.begin(), rows_.end(), std::back_inserter(class_rows_), constant);
    if (!class_rows_.empty()) {
      std::erase_if(rows_, constant);
    }
    order_class_cols();
  }

  static bool is_class(double value) { return value == value; }

  void set_price(std::int64_t j, double price) {
    matching_.price[j] = price;
    largest_price_ = std::max(largest_price_, std::abs(price));
    self().price_set(j);
  }

  // Leaves a matching that is optimal but for the rows in free_. False after an interrupt.
  // `complete` tells that all rows have columns and the gap is at most the tolerance.
  bool auction(std::span<const double> shares, const SolverOptions &options, bool &complete) {
    std::copy_if(rows_.rbegin(), rows_.rend(), std::back_inserter(free_),
                 [this](std::int64_t i) { return matching_.col_of[i] < 0; });
    free_class_rows_ = class_rows_;
    complete = false;
    if (!bid(0.0, 2 * n_)) {
      return false;
    }
    if (!shares.empty() && options.scales(static_cast<std::int64_t>(free_.size()), n_)) {
      const double spread = mean_spread(options.spread_sample);
      const auto phases = static_cast<int>(shares.size());
      int first = 0;
      while (first < phases && !options.uses(shares[first])) {
        ++first;
      }
      int coarser = options.restarts ? 2 : 0; // starts that may follow
      for (int phase = first; phase < phases; ++phase) {
        const double share = phase < 0 ? shares[0] * std::pow(coarser_by, -phase) : shares[phase];
        const double epsilon = std::ceil(spread * share / step_) * step_;
        review(epsilon);
        if (!bid(epsilon, 16 * n_)) {
          return false;
        }
        // Now every row is within epsilon of its best choice.
        if (free_.empty() && free_class_rows_.empty() &&
            (epsilon + self().looseness(epsilon)) * static_cast<double>(n_) <= options.tolerance) {
          complete = true;
          return true;
        }
        if (coarser > 0 && stalls(phase - first)) {
          --coarser;
          --first;
          phase = first - 1;
        }
      }
      review(0.0);
      if (!bid(0.0, 2 * n_)) {
        return false;
      }
    }
    end_review();
    settle_class_rows();
    free_.insert(free_.end(), free_class_rows_.begin(), free_class_rows_.end());
    std::sort(free_.begin(), free_.end());
    return !interrupt_.stopped();
  }

  double class_profit(std::int64_t j) const { return classes_.col_value[j] - matching_.price[j]; }

  // Constant columns are a heap with the one that yields most on top; only bids for the top one and
  // bids of the constant rows change it.
  void order_class_cols() {
    std::make_heap(class_cols_.begin(), class_cols_.end(),
                   [this](std::int64_t j, std::int64_t k) { return class_order(j, k); });
  }

  double least_price() const {
    return *std::min_element(matching_.price.begin(), matching_.price.begin() + n_);
  }

  const std::int64_t n_;
  const Classes &classes_;
  Matching &matching_;
  const double step_;
  Interrupt &interrupt_;
  double largest_price_ = 0;
  std::vector<std::int64_t> rows_, class_rows_, class_cols_; // ordinary rows; the classes
  std::vector<std::int64_t> free_;

private:
  Solver &self() { return static_cast<Solver &>(*this); }

  bool class_order(std::int64_t j, std::int64_t k) const {
    const double x = class_profit(j);
    const double y = class_profit(k);
    return x < y || (x == y && j > k);
  }

  void top_class_col_rose() {
    std::size_t at = 0;
    while (true) {
      std::size_t next = at;
      for (std::size_t child = 2 * at + 1; child <= 2 * at + 2 && child < class_cols_.size();
           ++child) {
        if (class_order(class_cols_[next], class_cols_[child])) {
          next = child;
        }
      }
      if (next == at) {
        return;
      }
      std::swap(class_cols_[at], class_cols_[next]);
      at = next;
    }
  }

  // Whether so many rows are left after the first or second phase that they will only outbid each
  // other: prices have far to go, as in matrices of low rank where some columns are to be cheap.
  bool stalls(int phase) const {
    const auto open = static_cast<std::int64_t>(free_.size());
    return (phase == 0 && open > n_ / 8) || (phase == 1 && open > n_ / 512 + 16);
  }

  // The rows in free_ bid for their best column until all have one or the budget is spent. Among
  // them may be rows under review: those that are content with what they have keep it. Two rows
  // look before the first of them bids, so that the processor need not wait in between.
  bool bid(double epsilon, std::int64_t budget) {
    stuck_.clear();
    while (budget > 0) {
      if (free_.empty()) {
        if (free_class_rows_.empty()) {
          break;
        }
        bid_as_class(epsilon);
        budget -= n_ / 16 + 1;
        if (interrupt_(n_)) {
          return false;
        }
        continue;
      }
      if (interrupt_(Solver::is_dense ? 2 * n_ : 64)) {
        return false;
      }
      std::array<std::int64_t, 2> rows{next_free(), -1};
      std::array<Choice, 2> choices;
      if (free_.empty()) {
        choices[0] = self().choose(rows[0], epsilon);
        budget -= Solver::is_dense ? 1 : 0;
      } else {
        rows[1] = next_free();
        choices = self().choose(rows, epsilon);
      }
      std::int64_t dearer = -1;
      for (std::size_t k = 0; k < 2 && rows[k] >= 0; ++k) {
        if (dearer >= 0 && dearer == choices[k].col) {
          free_.push_back(rows[k]);
        } else {
          dearer = respond(rows[k], choices[k], epsilon, budget);
        }
      }
    }
    free_.insert(free_.end(), stuck_.begin(), stuck_.end());
    return true;
  }

  std::int64_t next_free() {
    const std::int64_t i = free_.back();
    free_.pop_back();
    return i;
  }

  // Row i keeps its column, bids, or gets stuck; returns the column that became dearer, or -1.
  std::int64_t respond(std::int64_t i, const Choice &choice, double epsilon, std::int64_t &budget) {
    if (const std::int64_t own = matching_.col_of[i]; own >= 0) {
      if (own == choice.col ||
          self().profit(i, own) >= choice.best - epsilon - self().looseness(epsilon)) {
        return -1;
      }
      leave(i);
    }
    --budget;
    const std::int64_t holder = choice.col < 0 ? -1 : matching_.row_of[choice.col];
    const double raise = choice.best - choice.second + epsilon;
    // A row with one possible column bids no finite price, and a raise of zero could go on for
    // ever.
    if (!(raise < infinity) || (holder >= 0 && raise <= 0)) {
      // Forbidden pairs are no ties.
      const std::int64_t other = choice.best > -infinity ? self().free_tie(i, choice.best) : -1;
      if (other >= 0) {
        take(i, other);
      } else {
        stuck_.push_back(i);
      }
      return -1;
    }
    set_price(choice.col, matching_.price[choice.col] + raise);
    if (!class_cols_.empty() && is_class(classes_.col_value[choice.col])) {
      top_class_col_rose();
    }
    take(i, choice.col);
    return choice.col;
  }

  void take(std::int64_t i, std::int64_t j) {
    const std::int64_t holder = matching_.row_of[j];
    matching_.row_of[j] = i;
    matching_.col_of[i] = j;
    if (holder >= 0) {
      matching_.col_of[holder] = -1;
      const bool constant = !class_rows_.empty() && is_class(classes_.row_value[holder]);
      (constant ? free_class_rows_ : free_).push_back(holder);
    }
  }

  void leave(std::int64_t i) {
    if (matching_.col_of[i] >= 0) {
      matching_.row_of[matching_.col_of[i]] = -1;
      matching_.col_of[i] = -1;
    }
  }

  // The constant rows without a column together take the cheapest that no constant row has, and all
  // of them pay what the cheapest they leave to others costs: one bid instead of as many price
  // wars.
  void bid_as_class(double epsilon) {
    // At equal prices columns without holder go first.
    by_price_.clear();
    by_price_.reserve(n_);
    for (std::int64_t j = 0; j < n_; ++j) {
      const std::int64_t holder = matching_.row_of[j];
      if (holder < 0) {
        by_price_.push_back({matching_.price[j], j - n_});
      } else if (!is_class(classes_.row_value[holder])) {
        by_price_.push_back({matching_.price[j], j});
      }
    }
    const std::int64_t count = std::ssize(free_class_rows_);
    const auto next = by_price_.begin() + std::min(count, std::ssize(by_price_) - 1);
    std::nth_element(by_price_.begin(), next, by_price_.end());
    const double floor = next->first + epsilon;
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t j = by_price_[k].second;
      take(free_class_rows_[k], j < 0 ? j + n_ : j);
    }
    free_class_rows_.clear();
    for (const std::int64_t i : class_rows_) {
      if (const std::int64_t j = matching_.col_of[i]; matching_.price[j] < floor) {
        set_price(j, floor);
      }
    }
    order_class_cols();
  }

  // Puts every ordinary row under review and sets free the constant rows that pay more than epsilon
  // above the least price.
  void review(double epsilon) {
    free_.assign(rows_.rbegin(), rows_.rend());
    free_class_rows_.clear();
    const double floor = least_price();
    for (const std::int64_t i : class_rows_) {
      const std::int64_t j = matching_.col_of[i];
      if (j < 0 || matching_.price[j] > floor + epsilon) {
        leave(i);
        free_class_rows_.push_back(i);
      }
    }
  }

  // Of the rows in free_ keeps those without a column, and sets free those whose column is not
  // their best.
  void end_review() {
    std::sort(free_.begin(), free_.end());
    free_.erase(std::unique(free_.begin(), free_.end()), free_.end());
    std::erase_if(free_, [this](std::int64_t i) {
      if (interrupt_.stopped()) {
        return false;
      }
      const std::int64_t j = matching_.col_of[i];
      if (j >= 0 && self().profit(i, j) >= self().choose_best(i).best) {
        return true;
      }
      leave(i);
      return false;
    });
  }

  // Constant rows without a column take what nobody has and nothing is cheaper than. Then raises
  // every price to the highest that constant rows hold, so that these rows are content; rows whose
  // column became dearer are reviewed.
  void settle_class_rows() {
    if (class_rows_.empty()) {
      return;
    }
    const double least = least_price();
    for (std::int64_t j = 0; j < n_ && !free_class_rows_.empty(); ++j) {
      if (matching_.row_of[j] < 0 && matching_.price[j] == least) {
        take(free_class_rows_.back(), j);
        free_class_rows_.pop_back();
      }
    }
    double floor = -infinity;
    for (const std::int64_t i : class_rows_) {
      if (matching_.col_of[i] >= 0) {
        floor = std::max(floor, matching_.price[matching_.col_of[i]]);
      }
    }
    for (std::int64_t j = 0; j < n_; ++j) {
      if (matching_.price[j] < floor) {
        set_price(j, floor);
        const std::int64_t i = matching_.row_of[j];
        if (i >= 0 && !is_class(classes_.row_value[i])) {
          free_.push_back(i);
        }
      }
    }
    order_class_cols();
    end_review();
  }

  double mean_spread(std::int64_t sample) {
    double total = 0;
    const std::size_t stride =
        std::max<std::size_t>(1, rows_.size() / static_cast<std::size_t>(sample));
    std::int64_t count = 0;
    for (std::size_t k = 0; k < rows_.size(); k += stride) {
      const double spread = self().spread(rows_[k]);
      if (spread < infinity) {
        total += spread;
        ++count;
      }
    }
    return count ? total / static_cast<double>(count) : 0.0;
  }

  std::vector<std::int64_t> free_class_rows_, stuck_;
  std::vector<std::pair<double, std::int64_t>> by_price_;
};

} // namespace lmc
