#include "assignment_dense.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "assignment_auction.hpp"
#include "assignment_dense_rows.hpp"
#include "assignment_exact_rows.hpp"
#include "assignment_rows.hpp"
#include "assignment_scratch.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::array<double, 2> shares{0.15, 0.01};
constexpr std::int64_t smallest_for_scaling = 96;

template <class T> class DenseSolver : public Auction<DenseSolver<T>> {
  using Base = Auction<DenseSolver<T>>;
  friend Base;
  using Base::class_rows_, Base::classes_, Base::free_, Base::interrupt_, Base::is_class,
      Base::largest_price_, Base::matching_, Base::n_, Base::set_price, Base::step_;

public:
  DenseSolver(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
              Interrupt &interrupt, SolverWork &work)
      : Base(matrix.cols, classes, matching, power_of_two(-matrix.grid.bits), interrupt),
        matrix_(matrix), work_(work), stride_(padded(matrix.cols)),
        unit_(static_cast<T>(power_of_two(matrix.grid.exponent))),
        in_float32_(std::is_same_v<T, float> && matrix.grid.leaves_float32_room()),
        rounded_(stride_), none_(class_rows_.empty() ? 0 : matrix.cols) {
    std::fill_n(rounded_.data() + n_, stride_ - n_, T{0});
    largest_price_ = round_prices(matching.price.data(), unit_, rounded_.data(), n_);
    cover_prices(std::max(1.0, 2 * largest_price_));
  }

  SolverResult run(const SolverOptions &options) {
    bool complete = false;
    const std::span<const double> used(shares);
    if (!this->auction(n_ < smallest_for_scaling ? used.first(0) : used, options, complete)) {
      return SolverResult::interrupted;
    }
    return complete ? SolverResult::ok : augment_all();
  }

private:
  static constexpr bool is_dense = true;

  // Constant rows and dummies count as zero: a constant changes nothing but their own profit.
  const T *row(std::int64_t i) const {
    return is_class(classes_.row_value[i]) ? none_.data() : matrix_.row(i);
  }

  double value(std::int64_t i, std::int64_t j) const { return matrix_.on_grid(row(i)[j]); }

  double profit(std::int64_t i, std::int64_t j) const { return value(i, j) - matching_.price[j]; }

  void price_set(std::int64_t j) {
    put_price(rounded_.data(), j, static_cast<T>(matching_.price[j]) * unit_);
    if (largest_price_ >= covered_price_) {
      cover_prices(std::max(1.0, 2 * largest_price_));
    }
  }

  void cover_prices(double largest) {
    covered_price_ = in_float32_ ? largest : infinity;
    slack_ = matrix_.grid.difference_error(largest, std::numeric_limits<float>::epsilon());
  }

  // Differences formed in float32 are good enough while epsilon is large beside their error.
  double looseness(double epsilon) const { return in_float32_ && epsilon != 0 ? slack_ : 0; }

  Choice choose(std::int64_t i, double epsilon) {
    return in_float32_ ? judge(i, look(i), epsilon) : choose_exactly(i);
  }

  std::array<Choice, 2> choose(const std::array<std::int64_t, 2> &rows, double epsilon) {
    if (!in_float32_) {
      return {choose_exactly(rows[0]), choose_exactly(rows[1])};
    }
    work_.rows_read += 2;
    const std::array<TopTwo<T>, 2> tops =
        top_two(std::array{row(rows[0]), row(rows[1])}, matrix_.sign, rounded_.data(), n_);
    return {judge(rows[0], tops[0], epsilon), judge(rows[1], tops[1], epsilon)};
  }

  Choice choose_best(std::int64_t i) { return choose(i, 0.0); }

  TopTwo<T> look(std::int64_t i) {
    ++work_.rows_read;
    interrupt_(n_);
    return top_two(row(i), matrix_.sign, rounded_.data(), n_);
  }

  // What was seen in float32 will do beside an epsilon. Else the best is found exactly, and the
  // second is a bound from above, good enough if below the best.
  Choice judge(std::int64_t i, const TopTwo<T> &top, double epsilon) {
    const double second = matrix_.grid(static_cast<double>(top.second));
    if (epsilon > 0) {
      return {matrix_.grid(static_cast<double>(top.best)), second, top.index};
    }
    if (top.index >= 0) {
      const double best = profit(i, top.index);
      if (best > second + slack_) {
        return {best, second + slack_, top.index};
      }
    }
    return choose_exactly(i);
  }

  Choice choose_exactly(std::int64_t i) {
    ++work_.rows_read;
    interrupt_(n_);
    const TopTwo<double> top = top_two_exact(matrix_, row(i), matching_.price.data());
    return {top.best, top.second, top.index};
  }

  std::int64_t free_tie(std::int64_t i, double best) const {
    for (std::int64_t j = 0; j < n_; ++j) {
      if (matching_.row_of[j] < 0 && profit(i, j) == best) {
        return j;
      }
    }
    return -1;
  }

  // By how much a row prefers its best column to its sixteenth or so.
  double spread(std::int64_t i) {
    scratch_.resize(n_);
    for (std::int64_t j = 0; j < n_; ++j) {
      scratch_[j] = profit(i, j);
    }
    const auto place = scratch_.begin() + std::min<std::int64_t>(n_ - 1, 11);
    std::nth_element(scratch_.begin(), place, scratch_.end(), std::greater<>());
    return *std::max_element(scratch_.begin(), place + 1) - *place;
  }

  SolverResult augment_all() {
    if (free_.empty()) {
      return SolverResult::ok;
    }
    yield_.resize(stride_);
    toll_.resize(stride_);
    onward_.resize(n_);
    scanned_.resize(n_);
    std::fill_n(toll_.data() + n_, stride_ - n_, 0.0);
    for (std::int64_t j = 0; j < n_; ++j) {
      const std::int64_t i = matching_.row_of[j];
      toll_[j] = matching_.price[j] + (i < 0 ? 0.0 : held_);
      onward_[j] = i < 0 ? 0.0 : held_ - profit(i, j);
    }
    for (const std::int64_t i : free_) {
      const SolverResult result = augment(i);
      if (result != SolverResult::ok) {
        return result;
      }
    }
    return SolverResult::ok;
  }

  struct Scanned {
    const T *line;         // the row's entries
    std::int64_t row, col; // the row and the column through which it was reached (-1: the start)
    double yield, shift;   // the column's, and what it leaves to the row's other columns
  };

  SolverResult augment(std::int64_t start) {
    ++work_.augmentations;
    std::fill_n(yield_.data(), stride_, -infinity);
    std::int64_t scanned = 0;
    Scanned last{row(start), start, -1, 0.0, 0.0};
    Nearest nearest{};
    while (true) {
      scanned_[scanned++] = last;
      nearest = relax(matrix_, last.line, last.shift, last.col, toll_.data(), yield_.data());
      ++work_.rows_read;
      if (interrupt_(stride_)) {
        return SolverResult::interrupted;
      }
      if (nearest.col < 0) {
        return SolverResult::infeasible;
      }
      const std::int64_t holder = matching_.row_of[nearest.col];
      if (holder < 0) {
        break;
      }
      last = {row(holder), holder, nearest.col, nearest.yield,
              nearest.yield + onward_[nearest.col]};
    }
    flip_path(nearest.col, nearest.yield);
    for (std::int64_t k = 1; k < scanned; ++k) {
      const std::int64_t j = scanned_[k].col;
      const double rise = scanned_[k].yield + held_ - nearest.yield;
      matching_.price[j] += rise;
      onward_[j] += rise;
      toll_[j] = matching_.price[j] + held_;
    }
    toll_[nearest.col] += held_;
    return SolverResult::ok;
  }

  // The row that gave a column its yield is found again by the sums of the scan; no predecessor
  // needs to be stored there. In the order of the scan they are the same even where prices have
  // outgrown the grid.
  void flip_path(std::int64_t j, double yield) {
    while (true) {
      const double toll = matching_.price[j] + (matching_.row_of[j] < 0 ? 0.0 : held_);
      std::int64_t k = 0;
      while (matrix_.on_grid(scanned_[k].line[j]) + scanned_[k].shift - toll != yield) {
        ++k;
      }
      const std::int64_t i = scanned_[k].row;
      matching_.row_of[j] = i;
      matching_.col_of[i] = j;
      onward_[j] = held_ - profit(i, j);
      j = scanned_[k].col;
      yield = scanned_[k].yield;
      if (j < 0) {
        return;
      }
    }
  }

  const RowMatrix<T> &matrix_;
  SolverWork &work_;
  const std::int64_t stride_;
  const T unit_;
  const bool in_float32_;
  double covered_price_ = -1, slack_ = 0; // what float32 may be wrong by up to that price
  // What a path to a held column costs more: less than the grid's step, so that of columns equally
  // near one without partner comes first.
  const double held_ = step_ / 2;
  Scratch<T> rounded_;
  std::vector<T> none_;
  Scratch<double> yield_;
  std::vector<double> scratch_;
  Scratch<double> toll_;   // the prices, held columns' with held_, infinity once scanned
  Scratch<double> onward_; // what a path's yield changes by from a column through its row
  Scratch<Scanned> scanned_;
};

} // namespace

template <class T>
void claim_columns(const RowMatrix<T> &matrix, const Findings<T> &findings, Matching &matching) {
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    const std::int64_t i = findings.holder[j];
    if (i < 0) {
      continue;
    }
    matching.price[j] = matrix.exact(i, j) - matrix.grid(static_cast<double>(findings.best[i]));
    if (matching.col_of[i] < 0) {
      matching.col_of[i] = j;
      matching.row_of[j] = i;
    }
  }
}

template <class T>
SolverResult solve_dense(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
                         const SolverOptions &options, Interrupt &interrupt, SolverWork &work) {
  return DenseSolver<T>(matrix, classes, matching, interrupt, work).run(options);
}

template void claim_columns(const RowMatrix<float> &, const Findings<float> &, Matching &);
template void claim_columns(const RowMatrix<double> &, const Findings<double> &, Matching &);
template SolverResult solve_dense(const RowMatrix<float> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_dense(const RowMatrix<double> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc
