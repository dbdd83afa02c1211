#include "assignment_dense.hpp"

#include <algorithm>
#include <limits>

#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t lanes = 4;

const Doubles &load(const double *at) { return *reinterpret_cast<const Doubles *>(at); }
Doubles &store(double *at) { return *reinterpret_cast<Doubles *>(at); }

struct Nearest {
  double any, free; // least distance to an open column, and to an open column without partner
};

// dist_j = min(dist_j, price_j - a_j - shift). `done` and `taken` are 0 or +infinity per column, so
// that leaving columns out costs an addition instead of a branch.
LMC_CLONES Nearest relax(const double *values, const double *price, double shift, double *dist,
                         const double *done, const double *taken, std::int64_t count) {
  const Doubles all = Doubles{} + infinity;
  Doubles any = all;
  Doubles free = all;
  for (std::int64_t j = 0; j < count; j += lanes) {
    const Doubles through = load(price + j) - load(values + j) - shift;
    const Doubles old = load(dist + j);
    const Doubles now = through < old ? through : old;
    store(dist + j) = now;
    const Doubles open = now + load(done + j);
    const Doubles sink = now + load(taken + j);
    any = open < any ? open : any;
    free = sink < free ? sink : free;
  }
  Nearest nearest{infinity, infinity};
  for (std::int64_t k = 0; k < lanes; ++k) {
    nearest.any = std::min(nearest.any, any[k]);
    nearest.free = std::min(nearest.free, free[k]);
  }
  return nearest;
}

LMC_CLONES std::int64_t find_sum(const double *a, const double *b, double target,
                                 std::int64_t count) {
  for (std::int64_t j = 0; j < count; ++j) {
    if (a[j] + b[j] == target) {
      return j;
    }
  }
  return -1;
}

LMC_CLONES void column_maxima(const double *values, double *price, std::int64_t count) {
  for (std::int64_t j = 0; j < count; j += lanes) {
    const Doubles a = load(values + j);
    const Doubles p = load(price + j);
    store(price + j) = a > p ? a : p;
  }
}

class DenseSolver {
public:
  DenseSolver(const DenseProblem &problem, Matching &matching, Interrupt &interrupt,
              DenseWork &work)
      : problem_(problem), matching_(matching), interrupt_(interrupt), work_(work) {}

  const double *row(std::int64_t i) const { return problem_.values + i * problem_.stride; }

  bool reduce_rows() {
    std::vector<std::int64_t> queue;
    for (std::int64_t i = problem_.rows - 1; i >= 0; --i) {
      if (matching_.col_of[i] < 0) {
        queue.push_back(i);
      }
    }
    std::int64_t bids = 2 * static_cast<std::int64_t>(queue.size()) + 16;
    while (!queue.empty() && bids-- > 0) {
      const std::int64_t i = queue.back();
      queue.pop_back();
      const TopTwo top = top_two(row(i), matching_.price.data(), problem_.stride);
      ++work_.rows_read;
      if (interrupt_(problem_.stride)) {
        return false;
      }
      if (top.second == -infinity) {
        continue;
      }
      std::int64_t j = top.index;
      const std::int64_t holder = matching_.row_of[j];
      if (top.best == top.second && holder >= 0) {
        // Taking a tied column moves no price: it could go round for ever, so the path stage
        // decides.
        continue;
      }
      matching_.price[j] += top.best - top.second;
      matching_.row_of[j] = i;
      matching_.col_of[i] = j;
      if (holder >= 0) {
        matching_.col_of[holder] = -1;
        queue.push_back(holder);
      }
    }
    return true;
  }

  DenseResult augment_all() {
    const std::int64_t width = problem_.stride;
    dist_.resize(width);
    done_.assign(width, infinity);
    taken_.assign(width, infinity);
    for (std::int64_t i = 0; i < problem_.rows; ++i) {
      if (matching_.col_of[i] < 0) {
        const DenseResult result = augment(i);
        if (result != DenseResult::ok) {
          return result;
        }
      }
    }
    return DenseResult::ok;
  }

private:
  struct Scanned {
    std::int64_t row, col; // the row and the column through which it was reached (-1: the start)
    double shift;
  };

  DenseResult augment(std::int64_t start) {
    const std::int64_t width = problem_.stride;
    ++work_.augmentations;
    std::fill(dist_.begin(), dist_.end(), infinity);
    std::fill(done_.begin(), done_.begin() + problem_.cols, 0.0);
    for (std::int64_t j = 0; j < problem_.cols; ++j) {
      taken_[j] = matching_.row_of[j] < 0 ? 0.0 : infinity;
    }
    scanned_.assign(1, {start, -1, 0.0});
    Nearest nearest{};
    while (true) {
      const Scanned &last = scanned_.back();
      nearest = relax(row(last.row), matching_.price.data(), last.shift, dist_.data(), done_.data(),
                      taken_.data(), width);
      ++work_.rows_read;
      if (interrupt_(width)) {
        return DenseResult::interrupted;
      }
      if (nearest.any == infinity) {
        return DenseResult::infeasible;
      }
      if (nearest.free <= nearest.any) {
        break;
      }
      const std::int64_t j = find_sum(dist_.data(), done_.data(), nearest.any, width);
      done_[j] = infinity;
      const std::int64_t next = matching_.row_of[j];
      scanned_.push_back({next, j, matching_.price[j] - row(next)[j] - nearest.any});
    }
    std::int64_t j = find_sum(dist_.data(), taken_.data(), nearest.free, width);
    flip_path(j);
    for (std::size_t k = 1; k < scanned_.size(); ++k) {
      matching_.price[scanned_[k].col] += nearest.free - dist_[scanned_[k].col];
    }
    return DenseResult::ok;
  }

  // Arithmetic on the grid is exact, so the row that gave a column its distance is found again by
  // comparing; no predecessor needs to be stored in the scan.
  void flip_path(std::int64_t j) {
    while (true) {
      std::size_t k = 0;
      while (matching_.price[j] - row(scanned_[k].row)[j] - scanned_[k].shift != dist_[j]) {
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

  const DenseProblem &problem_;
  Matching &matching_;
  Interrupt &interrupt_;
  DenseWork &work_;
  std::vector<double> dist_, done_, taken_;
  std::vector<Scanned> scanned_;
};

} // namespace

LMC_CLONES TopTwo top_two(const double *values, const double *price, std::int64_t count) {
  const Doubles none = Doubles{} - infinity;
  Doubles first = none;
  Doubles next = none;
  for (std::int64_t j = 0; j < count; j += lanes) {
    const Doubles x = load(values + j) - load(price + j);
    const Doubles low = x < first ? x : first;
    next = low > next ? low : next;
    first = x > first ? x : first;
  }
  TopTwo top{-infinity, -infinity, -1};
  for (std::int64_t k = 0; k < lanes; ++k) {
    top.second = std::max({top.second, next[k], std::min(top.best, first[k])});
    top.best = std::max(top.best, first[k]);
  }
  for (std::int64_t j = 0; j < count; ++j) {
    if (values[j] - price[j] == top.best) {
      top.index = j;
      break;
    }
  }
  return top;
}

DenseResult solve_dense(const DenseProblem &problem, Matching &matching, Interrupt &interrupt,
                        DenseWork &work) {
  DenseSolver solver(problem, matching, interrupt, work);
  if (problem.rows == problem.cols) {
    std::vector<double> reduced(matching.price.size(), -infinity);
    for (std::int64_t i = 0; i < problem.rows; ++i) {
      column_maxima(solver.row(i), reduced.data(), problem.stride);
    }
    work.rows_read += problem.rows;
    for (std::int64_t j = 0; j < problem.cols; ++j) {
      if (reduced[j] == -infinity) {
        return DenseResult::infeasible;
      }
      matching.price[j] = reduced[j];
    }
  }
  if (!solver.reduce_rows()) {
    return DenseResult::interrupted;
  }
  return solver.augment_all();
}

} // namespace lmc
