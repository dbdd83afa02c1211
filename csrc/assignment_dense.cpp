#include "assignment_dense.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "assignment_auction.hpp"
#include "assignment_rows.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::array<double, 2> shares{0.1, 0.003};
constexpr std::int64_t smallest_for_scaling = 96;

// A path's yield is what it adds to the objective: a shortest path yields most.
struct Nearest {
  double any, free; // greatest yield of an open column, and of an open column without partner
  std::int64_t any_col, free_col;
};

// yield_j = max(yield_j, a_j - price_j + shift). `done` and `taken` are 0 or +infinity per column,
// so that leaving columns out costs a subtraction instead of a branch.
LMC_CLONES Nearest relax(const double *values, const double *price, double shift, double *yield,
                         const double *done, const double *taken, std::int64_t count) {
  LaneTop<double> any{Doubles{} - infinity, Longs{} - 1};
  LaneTop<double> free = any;
  Longs place = lane_numbers(0.0);
  for (std::int64_t j = 0; j < count; j += width<double>) {
    const Doubles through = load(values + j) - load(price + j) + shift;
    const Doubles now = larger(through, load(yield + j));
    store(yield + j) = now;
    any.see(now - load(done + j), place);
    free.see(now - load(taken + j), place);
    place += width<double>;
  }
  any.gather();
  free.gather();
  return {any.first[0], free.first[0], any.place[0], free.place[0]};
}

template <class T>
LMC_INLINE void fill_row_impl(const T *row, T sign, const Grid &grid, double *out,
                              std::int64_t count) {
  const Grid local = grid;
  for (std::int64_t j = 0; j < count; ++j) {
    out[j] = local(static_cast<double>(row[j] * sign));
  }
}

LMC_CLONES void fill_row(const float *row, float sign, const Grid &grid, double *out,
                         std::int64_t count) {
  fill_row_impl(row, sign, grid, out, count);
}
LMC_CLONES void fill_row(const double *row, double sign, const Grid &grid, double *out,
                         std::int64_t count) {
  fill_row_impl(row, sign, grid, out, count);
}

template <class T> class DenseSolver : public Auction<DenseSolver<T>> {
  using Base = Auction<DenseSolver<T>>;
  friend Base;
  using Base::class_rows_, Base::classes_, Base::free_, Base::interrupt_, Base::is_class,
      Base::largest_price_, Base::matching_, Base::n_, Base::set_price, Base::step_;

public:
  DenseSolver(const RowMatrix<T> &matrix, const GridValues &values, const Classes &classes,
              Matching &matching, Interrupt &interrupt, SolverWork &work)
      : Base(matrix.cols, classes, matching, std::ldexp(1.0, -matrix.grid.bits), interrupt),
        matrix_(matrix), values_(values), work_(work), stride_(values.stride),
        unit_(static_cast<T>(std::ldexp(1.0, matrix.grid.exponent))), rounded_(stride_),
        none_(class_rows_.empty() ? 0 : stride_, 0.0) {
    if (!none_.empty()) {
      std::fill(none_.begin() + matrix.cols, none_.end(), -infinity);
    }
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
  const double *row(std::int64_t i) const {
    return is_class(classes_.row_value[i]) ? none_.data() : values_.row(i);
  }

  double profit(std::int64_t i, std::int64_t j) const { return row(i)[j] - matching_.price[j]; }

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
    const TopTwo<double> top = top_two(row(i), 1.0, matching_.price.data(), stride_);
    return {top.best, top.second, top.index};
  }

  std::int64_t free_tie(std::int64_t i, double best) const {
    const double *values = row(i);
    for (std::int64_t j = 0; j < n_; ++j) {
      if (matching_.row_of[j] < 0 && values[j] - matching_.price[j] == best) {
        return j;
      }
    }
    return -1;
  }

  // By how much a row prefers its best column to its sixteenth or so.
  double spread(std::int64_t i) {
    scratch_.assign(values_.row(i), values_.row(i) + n_);
    for (std::int64_t j = 0; j < n_; ++j) {
      scratch_[j] -= matching_.price[j];
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
    done_.assign(stride_, infinity);
    taken_.assign(stride_, infinity);
    std::fill(done_.begin(), done_.begin() + n_, 0.0);
    for (std::int64_t j = 0; j < n_; ++j) {
      taken_[j] = matching_.row_of[j] < 0 ? 0.0 : infinity;
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
    Nearest nearest{};
    while (true) {
      const Scanned &last = scanned_.back();
      nearest = relax(row(last.row), matching_.price.data(), last.shift, yield_.data(),
                      done_.data(), taken_.data(), stride_);
      ++work_.rows_read;
      if (interrupt_(stride_)) {
        return SolverResult::interrupted;
      }
      if (nearest.any == -infinity) {
        return SolverResult::infeasible;
      }
      if (nearest.free >= nearest.any) {
        break;
      }
      const std::int64_t j = nearest.any_col;
      done_[j] = infinity;
      const std::int64_t next = matching_.row_of[j];
      scanned_.push_back({next, j, matching_.price[j] - row(next)[j] + nearest.any});
    }
    flip_path(nearest.free_col);
    for (std::size_t k = 1; k < scanned_.size(); ++k) {
      const std::int64_t j = scanned_[k].col;
      matching_.price[j] += yield_[j] - nearest.free;
      done_[j] = 0.0;
    }
    taken_[nearest.free_col] = infinity;
    return SolverResult::ok;
  }

  // Arithmetic on the grid is exact, so the row that gave a column its yield is found again by
  // comparing; no predecessor needs to be stored in the scan.
  void flip_path(std::int64_t j) {
    while (true) {
      std::size_t k = 0;
      while (row(scanned_[k].row)[j] - matching_.price[j] + scanned_[k].shift != yield_[j]) {
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
  const GridValues &values_;
  SolverWork &work_;
  const std::int64_t stride_;
  T unit_;
  std::vector<T> rounded_;
  std::vector<double> none_, yield_, done_, taken_, scratch_;
  std::vector<Scanned> scanned_;
};

} // namespace

template <class T> GridValues values_on_grid(const RowMatrix<T> &matrix, Interrupt &interrupt) {
  const std::int64_t stride = (matrix.cols + 7) / 8 * 8;
  GridValues result{matrix.rows, matrix.cols, stride,
                    std::make_unique_for_overwrite<double[]>(matrix.rows * stride)};
  for (std::int64_t i = 0; i < matrix.rows && !interrupt(4 * matrix.cols); ++i) {
    double *out = result.values.get() + i * stride;
    fill_row(matrix.row(i), matrix.sign, matrix.grid, out, matrix.cols);
    std::fill(out + matrix.cols, out + stride, -infinity);
    const Moved moved = moved_entries(matrix.row(i), matrix.cols, matrix.grid);
    result.moved += moved.count;
    result.moved_by = std::max(result.moved_by, moved.by);
  }
  return result;
}

template <class T>
SolverResult solve_dense(const RowMatrix<T> &matrix, const GridValues &values,
                         const Classes &classes, Matching &matching, const SolverOptions &options,
                         Interrupt &interrupt, SolverWork &work) {
  return DenseSolver<T>(matrix, values, classes, matching, interrupt, work).run(options);
}

template GridValues values_on_grid(const RowMatrix<float> &, Interrupt &);
template GridValues values_on_grid(const RowMatrix<double> &, Interrupt &);
template SolverResult solve_dense(const RowMatrix<float> &, const GridValues &, const Classes &,
                                  Matching &, const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_dense(const RowMatrix<double> &, const GridValues &, const Classes &,
                                  Matching &, const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc
