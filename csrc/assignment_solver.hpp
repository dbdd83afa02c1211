#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <vector>

#include "assignment_grid.hpp"

namespace lmc {

// Polls the caller's interrupt once in about a million elementary steps.
class Interrupt {
public:
  static constexpr std::int64_t period = std::int64_t{1} << 20;

  explicit Interrupt(const std::function<bool()> &callback) : callback_(callback) {}

  // True once the caller wants to stop; `work` is the number of elements touched since the last
  // call.
  bool operator()(std::int64_t work) {
    work_ += work;
    if (work_ < period || !callback_) {
      return stopped_;
    }
    work_ = 0;
    stopped_ = stopped_ || callback_();
    return stopped_;
  }

  bool stopped() const { return stopped_; }

private:
  friend class Workers;

  const std::function<bool()> &callback_;
  std::int64_t work_ = 0;
  bool stopped_ = false;
};

// Lets several threads poll one interrupt: each has its own count of work.
class Workers {
public:
  explicit Workers(Interrupt &interrupt) : shared_(interrupt) {}

  // body(k, poll) for every k of [begin, end), until the caller wants to stop.
  template <class Body> void run(std::int64_t begin, std::int64_t end, const Body &body) {
    Interrupt own(shared_.callback_);
    own.stopped_ = stop_;
    for (std::int64_t k = begin; k < end && !own.stopped(); ++k) {
      body(k, own);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    shared_(own.work_);
    shared_.stopped_ = shared_.stopped_ || own.stopped_;
    stop_ = shared_.stopped_;
  }

private:
  Interrupt &shared_;
  std::mutex mutex_;
  std::atomic<bool> stop_{false};
};

// A matrix read in place, row by row: sign * data on the grid is to be maximised.
template <class T> struct RowMatrix {
  using Value = T;

  const T *row(std::int64_t i) const { return data + i * stride; }
  double exact(std::int64_t i, std::int64_t j) const { return on_grid(row(i)[j]); }
  double on_grid(T entry) const {
    return rounds ? grid(static_cast<double>(sign * entry)) : static_cast<double>(entry) * factor;
  }

  const T *data;
  std::int64_t rows, cols, stride;
  T sign;
  Grid grid;
  bool rounds = true; // some entry is no multiple of the grid's step, or scaling takes two factors
  double factor = 1;  // that brings entries to the grid where none needs to be rounded
};

// Rows and columns that are constant, and the dummies that make a rectangular problem square. A
// constant row takes whatever is cheapest, a constant column is worth the same to every row. Both
// vectors cover max(rows, cols) entries; NaN marks ordinary ones.
struct Classes {
  std::vector<double> row_value, col_value;
};

// A matching and the column prices that support it: u_i = max_j (a_ij - price_j), at least
// row_floor, which is what a row without partner gets where there are more rows than columns.
struct Matching {
  std::vector<std::int64_t> col_of; // (rows,), -1 for free
  std::vector<std::int64_t> row_of; // (cols,), -1 for free
  std::vector<double> price;        // (cols,)
  double row_floor = -std::numeric_limits<double>::infinity();
};

// What is asked of a solver. `matching` covers max(rows, cols) rows and columns and starts from
// any prices on the grid.
struct SolverOptions {
  // Whether so many rows without column are worth epsilon scaling: shortest paths for fewer cost
  // less. Prices of a similar problem are good but for these rows.
  bool scales(std::int64_t open, std::int64_t order) const {
    return !tied && open > order / (warm ? 4 : open_share);
  }
  // Whether an epsilon of this share of the rows' spread is used: a large one would forget the
  // prices of a similar problem.
  bool uses(double share) const { return !warm || share <= 0.02; }

  double tolerance = 0; // of the gap, on the grid
  bool warm = false;    // the prices are those of a similar problem
  bool tied = false;    // many rows have several best entries: scaling would only order the ties
  bool scaling = true;  // else lists leave a problem unfinished that is worth it
  bool restarts = true; // with a larger epsilon, where the first phases leave many rows open
  std::int64_t open_share = 16;    // scaling is for more open rows than this part of all
  std::int64_t spread_sample = 32; // so many rows tell the scale of epsilon
};

struct SolverWork {
  std::int64_t rows_read = 0;     // scans of a whole row
  std::int64_t list_visits = 0;   // scans of a candidate list
  std::int64_t augmentations = 0; // shortest paths searched
};

enum class SolverResult { ok, infeasible, interrupted, unfinished };

} // namespace lmc
