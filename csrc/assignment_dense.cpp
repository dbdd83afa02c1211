#include "assignment_dense.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "assignment_auction.hpp"
#include "assignment_exact_rows.hpp"
#include "assignment_rows.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::array<double, 2> shares{0.1, 0.003};
constexpr std::int64_t smallest_for_scaling = 96;

template <class T> class DenseSolver : public Auction<DenseSolver<T>> {
  using Base = Auction<DenseSolver<T>>;
  friend Base;
  using Base::class_rows_, Base::classes_, Base::free_, Base::interrupt_, Base::is_class,
      Base::largest_price_, Base::matching_, Base::n_, Base::set_price, Base::step_;

public:
  DenseSolver(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
              Interrupt &interrupt, SolverWork &work)
      : Base(matrix.cols, classes, matching, std::ldexp(1.0, -matrix.grid.bits), interrupt),
        matrix_(matrix), work_(work), stride_(padded(matrix.cols)),
        unit_(static_cast<T>(std::ldexp(1.0, matrix.grid.exponent))), rounded_(stride_),
        none_(class_rows_.empty() ? 0 : matrix.cols) {
    for (std::int64_t j = 0; j < n_; ++j) {
      set_price(j, matching.price[j]);
    }
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
  // Constant rows and dummies count as zero: a constant changes nothing but their own profit.
  const T *row(std::int64_t i) const {
    return is_class(classes_.row_value[i]) ? none_.data() : matrix_.row(i);
  }

  double profit(std::int64_t i, std::int64_t j) const {
    return matrix_.grid(static_cast<double>(matrix_.sign * row(i)[j])) - matching_.price[j];
  }

  void price_set(std::int64_t j) { rounded_[j] = static_cast<T>(matching_.price[j]) * unit_; }

  // Differences formed in float32 are good enough while epsilon is large beside their error.
  double looseness(double epsilon) const {
    if (std::is_same_v<T, double> || epsilon == 0) {
      return 0;
    }
    return (1 + largest_price_) * 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) +
           step_;
  }

  Choice choose(std::int64_t i, double epsilon) {
    if (std::is_same_v<T, double> || epsilon == 0) {
      return choose_best(i);
    }
    ++work_.rows_read;
    interrupt_(n_);
    const TopTwo<T> top = top_two(matrix_.row(i), matrix_.sign, rounded_.data(), n_);
    return {matrix_.grid(static_cast<double>(top.best)),
            matrix_.grid(static_cast<double>(top.second)), top.index};
  }

  Choice choose_best(std::int64_t i) {
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
    closed_.assign(stride_, infinity);
    for (std::int64_t j = 0; j < n_; ++j) {
      closed_[j] = matching_.row_of[j] < 0 ? 0.0 : held_;
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
    std::int64_t row, col; // the row and the column through which it was reached (-1: the start)
    double shift;
  };

  SolverResult augment(std::int64_t start) {
    ++work_.augmentations;
    std::fill(yield_.begin(), yield_.end(), -infinity);
    scanned_.assign(1, {start, -1, 0.0});
    std::int64_t nearest = -1;
    while (true) {
      const Scanned &last = scanned_.back();
      nearest = relax(matrix_, row(last.row), matching_.price.data(), last.shift, yield_.data(),
                      closed_.data());
      ++work_.rows_read;
      if (interrupt_(stride_)) {
        return SolverResult::interrupted;
      }
      if (nearest < 0) {
        return SolverResult::infeasible;
      }
      const std::int64_t next = matching_.row_of[nearest];
      if (next < 0) {
        break;
      }
      closed_[nearest] = infinity;
      scanned_.push_back({next, nearest, yield_[nearest] - profit(next, nearest)});
    }
    flip_path(nearest);
    for (std::size_t k = 1; k < scanned_.size(); ++k) {
      const std::int64_t j = scanned_[k].col;
      matching_.price[j] += yield_[j] - yield_[nearest];
      closed_[j] = held_;
    }
    closed_[nearest] = held_;
    return SolverResult::ok;
  }

  // Arithmetic on the grid is exact, so the row that gave a column its yield is found again by
  // comparing; no predecessor needs to be stored in the scan.
  void flip_path(std::int64_t j) {
    while (true) {
      std::size_t k = 0;
      while (profit(scanned_[k].row, j) + scanned_[k].shift != yield_[j]) {
        ++k;
      }
      const std::int64_t i = scanned_[k].row;
      matching_.row_of[j] = i;
      matching_.col_of[i] = j;
      j = scanned_[k].col;
      if (j < 0) {
        return;
      }
    }
  }

  const RowMatrix<T> &matrix_;
  SolverWork &work_;
  const std::int64_t stride_;
  const T unit_;
  // What a path to a held column lacks: less than the grid's step, so that of columns equally near
  // one without partner comes first.
  const double held_ = step_ / 2;
  std::vector<T> rounded_, none_;
  std::vector<double> yield_, scratch_;
  std::vector<double> closed_; // 0 for columns without partner, held_, or infinity once scanned
  std::vector<Scanned> scanned_;
};

} // namespace

template <class T>
void reduce_columns(const RowMatrix<T> &matrix, const Classes &classes, const std::vector<T> &best,
                    Matching &matching, Interrupt &interrupt) {
  std::vector<std::int64_t> holder(padded(matrix.cols), -1);
  std::fill(matching.price.begin(), matching.price.end(), -infinity);
  for (std::int64_t i = 0; i < matrix.rows && !interrupt(2 * matrix.cols); ++i) {
    if (std::isnan(classes.row_value[i]) && std::isfinite(best[i])) {
      claim_columns(matrix, matrix.row(i), matrix.grid(static_cast<double>(best[i])), i,
                    matching.price.data(), holder.data());
    }
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    const std::int64_t i = holder[j];
    if (i < 0) {
      matching.price[j] = 0;
    } else if (matching.col_of[i] < 0) {
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

template void reduce_columns(const RowMatrix<float> &, const Classes &, const std::vector<float> &,
                             Matching &, Interrupt &);
template void reduce_columns(const RowMatrix<double> &, const Classes &,
                             const std::vector<double> &, Matching &, Interrupt &);
template SolverResult solve_dense(const RowMatrix<float> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_dense(const RowMatrix<double> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc
