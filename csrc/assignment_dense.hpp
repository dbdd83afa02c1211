#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace lmc {

// Polls the caller's interrupt once in about a million elementary steps.
class Interrupt {
public:
  explicit Interrupt(const std::function<bool()> &callback) : callback_(callback) {}

  // True once the caller wants to stop; `work` is the number of elements touched since the last
  // call.
  bool operator()(std::int64_t work) {
    work_ += work;
    if (work_ < (std::int64_t{1} << 20) || !callback_) {
      return stopped_;
    }
    work_ = 0;
    stopped_ = stopped_ || callback_();
    return stopped_;
  }

  bool stopped() const { return stopped_; }

private:
  const std::function<bool()> &callback_;
  std::int64_t work_ = 0;
  bool stopped_ = false;
};

// Values on the grid, to be maximised; forbidden pairs are -infinity. rows <= cols. Every row is
// padded with -infinity to `stride`, a multiple of 8.
struct DenseProblem {
  const double *values;
  std::int64_t rows, cols, stride;
};

// A matching and the column prices that support it: u_i = max_j (a_ij - price_j), at least
// row_floor, which is what a row without partner gets where there are more rows than columns.
struct Matching {
  std::vector<std::int64_t> col_of; // (rows,), -1 for free
  std::vector<std::int64_t> row_of; // (cols,), -1 for free
  std::vector<double> price;        // (stride,)
  double row_floor = -std::numeric_limits<double>::infinity();
};

struct DenseWork {
  std::int64_t rows_read = 0;
  std::int64_t augmentations = 0;
};

enum class DenseResult { ok, infeasible, interrupted };

// The method of Jonker and Volgenant (Computing 38, 1987, 325-340): column reduction, augmenting
// row reduction, then shortest augmenting paths. All prices in `matching` must be on the grid, and
// equal where rows < cols.
DenseResult solve_dense(const DenseProblem &problem, Matching &matching, Interrupt &interrupt,
                        DenseWork &work);

struct TopTwo {
  double best, second;
  std::int64_t index;
};

// The largest and second largest a_j - p_j (equal under a tie) and the first place of the largest.
// `count` is a multiple of 8.
TopTwo top_two(const double *values, const double *price, std::int64_t count);

} // namespace lmc
