#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment.hpp"
#include "assignment_certificate.hpp"
#include "assignment_dense.hpp"
#include "assignment_grid.hpp"
#include "assignment_lists.hpp"
#include "assignment_rows.hpp"
#include "assignment_ties.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int finest_bits = 46;
constexpr std::int64_t smallest_for_lists = 128;

// The problem the solvers see: maximise, rows <= cols. `flipped` says that its rows are the
// caller's columns.
struct Oriented {
  CostMatrix cost;
  bool flipped;
  double sign;
};

Oriented orient(const CostMatrix &cost, bool maximize) {
  const double sign = maximize ? 1.0 : -1.0;
  if (cost.rows < cost.cols || (cost.rows == cost.cols && cost.col_stride == 1)) {
    return {cost, false, sign};
  }
  return {{cost.data, cost.float64, cost.cols, cost.rows, cost.col_stride, cost.row_stride},
          true,
          sign};
}

double entry(const CostMatrix &cost, std::int64_t i, std::int64_t j) {
  const std::int64_t at = i * cost.row_stride + j * cost.col_stride;
  return cost.float64 ? static_cast<const double *>(cost.data)[at]
                      : static_cast<double>(static_cast<const float *>(cost.data)[at]);
}

std::int64_t padded(std::int64_t count) { return (count + 7) / 8 * 8; }

template <class T>
void fill_grid(const Oriented &problem, const Grid &grid, std::vector<double> &values,
               AssignmentReport &report) {
  const CostMatrix &cost = problem.cost;
  const auto *data = static_cast<const T *>(cost.data);
  const std::int64_t stride = padded(cost.cols);
  double moved_by = 0;
  std::int64_t moved = 0;
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    double *row = values.data() + i * stride;
    for (std::int64_t j = 0; j < cost.cols; ++j) {
      const double x =
          problem.sign * static_cast<double>(data[i * cost.row_stride + j * cost.col_stride]);
      row[j] = grid(x);
      const double shift = std::abs(row[j] - grid.exact(x));
      // The difference of two infinities, a forbidden pair, is NaN and counts as not moved.
      moved += shift > 0;
      moved_by = shift > moved_by ? shift : moved_by;
    }
    std::fill(row + cost.cols, row + stride, -infinity);
  }
  report.moved = moved;
  report.moved_by = grid.restore(moved_by);
}

// The sum of the chosen entries, correctly rounded in all but contrived cases (Neumaier's sum).
double objective_of(const CostMatrix &cost, const std::int64_t *cols) {
  double sum = 0;
  double rest = 0;
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    if (cols[i] >= 0) {
      const double x = entry(cost, i, cols[i]);
      const double next = sum + x;
      rest += std::abs(sum) >= std::abs(x) ? (sum - next) + x : (x - next) + sum;
      sum = next;
    }
  }
  return std::isfinite(rest) ? sum + rest : sum;
}

class Solve {
public:
  Solve(const CostMatrix &cost, const AssignmentOptions &options, const AssignmentOutput &output)
      : cost_(cost), options_(options), output_(output), interrupt_(options.interrupted),
        problem_(orient(cost, options.maximize)) {}

  AssignmentReport run() {
    if (cost_.rows == 0 || cost_.cols == 0) {
      std::fill_n(output_.cols, cost_.rows, std::int64_t{-1});
      clear(output_.u, cost_.rows, 0.0);
      clear(output_.v, cost_.cols, 0.0);
      clear(output_.margins, cost_.rows, infinity);
      return report_;
    }
    return cost_.float64 ? run_typed<double>() : run_typed<float>();
  }

private:
  static void clear(double *out, std::int64_t count, double value) {
    if (out) {
      std::fill_n(out, count, value);
    }
  }

  // Finds the scale, rejects what is not a number, and starts every column at its best entry.
  template <class T> bool inspect(Survey &seen, std::vector<T> &best) {
    const CostMatrix &cost = problem_.cost;
    T poison = 0;
    T largest = 0;
    if (cost.col_stride == 1) {
      best.assign(cost.cols, static_cast<T>(-infinity));
      for (std::int64_t i = 0; i < cost.rows; ++i) {
        const auto *row = static_cast<const T *>(cost.data) + i * cost.row_stride;
        const RowSummary<T> summary =
            reduce_row(row, static_cast<T>(problem_.sign), best.data(), cost.cols);
        poison += summary.poison;
        largest = std::max(largest, summary.largest);
        if (interrupt_(cost.cols)) {
          return false;
        }
      }
      report_.rows_read += cost.rows;
      seen.largest = largest;
    }
    if (cost.col_stride != 1 || poison != 0) {
      seen = survey(cost_, options_.maximize);
    }
    return true;
  }

  template <class T> AssignmentReport run_typed() {
    Survey seen;
    std::vector<T> best;
    if (!inspect(seen, best)) {
      report_.status = AssignmentStatus::interrupted;
      return report_;
    }
    if (seen.bad_row >= 0) {
      report_.bad_row = seen.bad_row;
      report_.bad_col = seen.bad_col;
      report_.status = AssignmentStatus::invalid_value;
      return report_;
    }
    // Only forbidden pairs let prices grow beyond a few times the largest entry; the grid is made
    // coarser when they did.
    for (int bits = finest_bits; !attempt<T>(Grid::covering(seen.largest, bits), best); bits -= 8) {
    }
    return report_;
  }

  // False where the prices outgrew the grid.
  template <class T> bool attempt(const Grid &grid, const std::vector<T> &best) {
    const CostMatrix &cost = problem_.cost;
    const bool by_lists = cost.rows == cost.cols && cost.rows >= smallest_for_lists &&
                          cost.col_stride == 1 && grid.exponent > -90 && grid.exponent < 120;
    report_.grid = grid.restore(std::ldexp(1.0, -grid.bits));
    report_.moved = 0;
    report_.moved_by = 0;
    Matching matching{std::vector<std::int64_t>(cost.rows, -1),
                      std::vector<std::int64_t>(cost.cols, -1),
                      std::vector<double>(padded(cost.cols), 0.0)};
    if (by_lists) {
      const RowMatrix<T> matrix{
          static_cast<const T *>(cost.data), cost.rows, cost.cols, cost.row_stride,
          static_cast<T>(problem_.sign),     grid};
      for (std::int64_t j = 0; j < cost.cols; ++j) {
        matching.price[j] = grid(static_cast<double>(best[j]));
      }
      ListWork work;
      const DenseResult result = solve_lists(matrix, matching, options_.threads, interrupt_, work);
      report_.rows_read += work.rows_read;
      report_.list_visits += work.list_visits;
      report_.augmentations += work.augmentations;
      return settle(result, matrix, matching, grid);
    }
    std::vector<double> values(cost.rows * padded(cost.cols));
    fill_grid<T>(problem_, grid, values, report_);
    const std::int64_t stride = padded(cost.cols);
    DenseWork work;
    const DenseResult result =
        solve_dense({values.data(), cost.rows, cost.cols, stride}, matching, interrupt_, work);
    report_.rows_read += work.rows_read;
    report_.augmentations += work.augmentations;
    const RowMatrix<double> matrix{values.data(), cost.rows, cost.cols,
                                   stride,        1.0,       Grid::covering(0.5, grid.bits)};
    return settle(result, matrix, matching, grid);
  }

  template <class T>
  bool settle(DenseResult result, const RowMatrix<T> &matrix, const Matching &matching,
              const Grid &grid) {
    if (result != DenseResult::ok) {
      report_.status = result == DenseResult::infeasible ? AssignmentStatus::infeasible
                                                         : AssignmentStatus::interrupted;
      return true;
    }
    const Certificate certificate =
        certify(matrix, matching, problem_.flipped, options_.threads, interrupt_);
    report_.rows_read += matrix.rows;
    if (certificate.largest >= std::ldexp(1.0, 51 - grid.bits)) {
      return false;
    }
    report_.gap = grid.restore(certificate.gap);
    report_.moved += certificate.moved;
    report_.moved_by = std::max(report_.moved_by, grid.restore(certificate.moved_by));
    finish(matching, certificate, grid);
    return true;
  }

  void finish(const Matching &matching, const Certificate &certificate, const Grid &grid) {
    const auto cols_count = static_cast<std::int64_t>(matching.row_of.size());
    std::vector<char> spare(cols_count, 0);
    for (std::int64_t j = 0; j < cols_count; ++j) {
      spare[j] = matching.price[j] == certificate.floor;
    }
    std::vector<std::int64_t> cols = problem_.flipped ? matching.row_of : matching.col_of;
    const std::int64_t *prefer = options_.keep ? options_.prefer : nullptr;
    const bool done =
        !interrupt_.stopped() &&
        (problem_.flipped
             ? canonical_optimum(certificate.tight.transposed(), spare, prefer, cols, interrupt_)
             : canonical_optimum(certificate.tight, spare, prefer, cols, interrupt_));
    if (!done) {
      report_.status = AssignmentStatus::interrupted;
      return;
    }
    std::copy(cols.begin(), cols.end(), output_.cols);
    report_.objective = objective_of(cost_, cols.data());
    write_duals(matching, certificate, grid);
  }

  void write_duals(const Matching &matching, const Certificate &certificate, const Grid &grid) {
    double *by_row = problem_.flipped ? output_.v : output_.u;
    double *by_col = problem_.flipped ? output_.u : output_.v;
    if (by_row) {
      for (std::size_t i = 0; i < certificate.u.size(); ++i) {
        by_row[i] = grid.restore(problem_.sign * (certificate.u[i] + certificate.floor));
      }
    }
    if (by_col) {
      for (std::size_t j = 0; j < matching.row_of.size(); ++j) {
        by_col[j] = grid.restore(problem_.sign * (matching.price[j] - certificate.floor));
      }
    }
    if (output_.margins) {
      std::transform(certificate.margins.begin(), certificate.margins.end(), output_.margins,
                     [&](double x) { return grid.restore(x); });
    }
  }

  const CostMatrix &cost_;
  const AssignmentOptions &options_;
  const AssignmentOutput &output_;
  Interrupt interrupt_;
  Oriented problem_;
  AssignmentReport report_;
};

} // namespace

AssignmentReport solve_assignment(const CostMatrix &cost, const AssignmentOptions &options,
                                  const AssignmentOutput &output) {
  return Solve(cost, options, output).run();
}

} // namespace lmc
