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
constexpr double hint_limit = 4; // initial prices beyond so many times the largest entry are cut
constexpr std::int64_t smallest_for_lists = 128;

// The problem the solvers see, to be maximised. `flipped` says that its rows are the caller's
// columns.
struct Oriented {
  CostMatrix cost;
  bool flipped;
  double sign;
};

Oriented orient(const CostMatrix &cost, bool flipped, double sign) {
  if (!flipped) {
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

// Best and worst entries under the sign of the problem.
template <class T> struct Extremes {
  std::vector<T> row_best, row_least, col_best;
};

// Rows that are constant, dummies for the missing rows or columns, and columns that are constant.
// Dummies are worth nothing to anybody, so beside them only zero constants can be a class.
template <class T> Classes find_classes(const RowMatrix<T> &matrix, const Extremes<T> &extremes) {
  const std::int64_t order = std::max(matrix.rows, matrix.cols);
  const double ordinary = std::numeric_limits<double>::quiet_NaN();
  Classes classes{std::vector<double>(order, ordinary), std::vector<double>(order, ordinary)};
  std::int64_t sample = -1;
  for (std::int64_t i = 0; i < order; ++i) {
    if (i >= matrix.rows) {
      classes.row_value[i] = 0;
    } else if (extremes.row_best[i] == extremes.row_least[i] &&
               extremes.row_best[i] > static_cast<T>(-infinity) &&
               (matrix.rows <= matrix.cols || extremes.row_best[i] == 0)) {
      classes.row_value[i] = matrix.grid(static_cast<double>(extremes.row_best[i]));
    } else {
      sample = i;
    }
    if (i >= matrix.cols) {
      classes.col_value[i] = 0;
    }
  }
  const auto maybe_constant = [&](std::int64_t j) {
    const T best = extremes.col_best[j];
    return sample >= 0 && best > static_cast<T>(-infinity) &&
           (matrix.rows >= matrix.cols || best == 0) &&
           matrix.sign * matrix.row(sample)[j] == best &&
           matrix.sign * matrix.row(sample / 2)[j] == best &&
           matrix.sign * matrix.row(0)[j] == best;
  };
  bool any = false;
  for (std::int64_t j = 0; j < matrix.cols && !any; ++j) {
    any = maybe_constant(j);
  }
  if (!any) {
    return classes;
  }
  std::vector<T> worst(matrix.cols, static_cast<T>(infinity));
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    lower_columns(matrix.row(i), matrix.sign, worst.data(), matrix.cols);
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    if (maybe_constant(j) && worst[j] == extremes.col_best[j]) {
      classes.col_value[j] = matrix.grid(static_cast<double>(worst[j]));
    }
  }
  return classes;
}

// Reduction by rows, then by columns: with every row at its best entry r_i, the least price at
// which no row wants column j more than that is max_i (a_ij - r_i).
template <class T>
void start_prices(const RowMatrix<T> &matrix, const Extremes<T> &extremes, const Classes &classes,
                  std::vector<double> &price) {
  std::vector<T> reduced(matrix.cols, static_cast<T>(-infinity));
  T least_best = static_cast<T>(infinity);
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    const T best = extremes.row_best[i];
    if (std::isnan(classes.row_value[i]) && best > static_cast<T>(-infinity)) {
      raise_columns(matrix.row(i), matrix.sign, best, reduced.data(), matrix.cols);
      least_best = std::min(least_best, best);
    }
  }
  const double unwanted =
      std::isfinite(least_best) ? matrix.grid(static_cast<double>(least_best)) : 0.0;
  for (std::size_t j = 0; j < price.size(); ++j) {
    if (!std::isnan(classes.col_value[j])) {
      price[j] = classes.col_value[j] - unwanted;
    } else {
      price[j] = std::isfinite(reduced[j]) ? matrix.grid(static_cast<double>(reduced[j])) : 0.0;
    }
  }
}

// Back from the squared problem to the given one.
void drop_dummies(std::int64_t rows, std::int64_t cols, Matching &matching) {
  if (rows > cols) {
    matching.row_floor = -*std::min_element(matching.price.begin() + cols, matching.price.end());
  }
  matching.col_of.resize(rows);
  matching.row_of.resize(cols);
  matching.price.resize(cols);
  for (std::int64_t &j : matching.col_of) {
    j = j < cols ? j : -1;
  }
  for (std::int64_t &i : matching.row_of) {
    i = i < rows ? i : -1;
  }
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
        problem_(orient(cost, cost.col_stride != 1, options.maximize ? 1.0 : -1.0)) {}

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

  // Finds the scale and the best entry of every row and column, and rejects what is not a number.
  template <class T> bool inspect(Survey &seen, Extremes<T> &extremes) {
    const CostMatrix &cost = problem_.cost;
    T poison = 0;
    extremes.col_best.assign(cost.cols, static_cast<T>(-infinity));
    extremes.row_best.resize(cost.rows);
    extremes.row_least.resize(cost.rows);
    for (std::int64_t i = 0; i < cost.rows; ++i) {
      const RowSummary<T> summary =
          reduce_row(static_cast<const T *>(cost.data) + i * cost.row_stride,
                     static_cast<T>(problem_.sign), extremes.col_best.data(), cost.cols);
      poison += summary.poison;
      seen.largest = std::max(seen.largest, static_cast<double>(summary.largest));
      extremes.row_best[i] = summary.best;
      extremes.row_least[i] = summary.least;
      if (interrupt_(cost.cols)) {
        return false;
      }
    }
    report_.rows_read += cost.rows;
    if (!(poison == T{0})) {
      seen = survey(cost_, options_.maximize);
    }
    return true;
  }

  template <class T> AssignmentReport run_typed() {
    Survey seen;
    Extremes<T> extremes;
    if (!inspect(seen, extremes)) {
      report_.status = AssignmentStatus::interrupted;
      return report_;
    }
    if (seen.bad_row >= 0) {
      report_.bad_row = seen.bad_row;
      report_.bad_col = seen.bad_col;
      report_.status = AssignmentStatus::invalid_value;
      return report_;
    }
    seen_largest_ = seen.largest;
    // Only forbidden pairs let prices grow beyond a few times the largest entry; the grid is made
    // coarser when they did.
    for (int bits = finest_bits; !attempt<T>(Grid::covering(seen.largest, bits), extremes);
         bits -= 8) {
    }
    return report_;
  }

  // False where the prices outgrew the grid.
  template <class T> bool attempt(const Grid &grid, const Extremes<T> &extremes) {
    const CostMatrix &cost = problem_.cost;
    report_.grid = grid.restore(std::ldexp(1.0, -grid.bits));
    report_.moved = 0;
    report_.moved_by = 0;
    // Float32 has no room for the solver's sums at the ends of its range.
    const bool ordinary_scale = grid.exponent > -90 && grid.exponent < 120;
    if (std::min(cost.rows, cost.cols) >= smallest_for_lists && ordinary_scale) {
      return attempt_lists(grid, extremes);
    }
    return attempt_dense<T>(grid);
  }

  template <class T> bool attempt_dense(const Grid &grid) {
    problem_ = orient(cost_, cost_.rows > cost_.cols, problem_.sign);
    const CostMatrix &cost = problem_.cost;
    const std::int64_t stride = padded(cost.cols);
    std::vector<double> values(cost.rows * stride);
    fill_grid<T>(problem_, grid, values, report_);
    Matching matching{std::vector<std::int64_t>(cost.rows, -1),
                      std::vector<std::int64_t>(cost.cols, -1), std::vector<double>(stride, 0.0)};
    DenseWork work;
    const DenseResult result =
        solve_dense({values.data(), cost.rows, cost.cols, stride}, matching, interrupt_, work);
    report_.rows_read += work.rows_read;
    report_.augmentations += work.augmentations;
    const RowMatrix<double> matrix{values.data(), cost.rows, cost.cols,
                                   stride,        1.0,       Grid::covering(0.5, grid.bits)};
    return settle(result, matrix, matching, grid);
  }

  template <class T> bool attempt_lists(const Grid &grid, const Extremes<T> &extremes) {
    const CostMatrix &cost = problem_.cost;
    const RowMatrix<T> matrix{
        static_cast<const T *>(cost.data), cost.rows, cost.cols, cost.row_stride,
        static_cast<T>(problem_.sign),     grid};
    const std::int64_t order = std::max(cost.rows, cost.cols);
    Matching matching{std::vector<std::int64_t>(order, -1), std::vector<std::int64_t>(order, -1),
                      std::vector<double>(order)};
    const Classes classes = find_classes(matrix, extremes);
    const double *hint = problem_.flipped ? options_.initial_u : options_.initial_v;
    if (hint) {
      for (std::int64_t j = 0; j < cost.cols; ++j) {
        matching.price[j] = grid(std::clamp(problem_.sign * hint[j], -hint_limit * seen_largest_,
                                            hint_limit * seen_largest_));
      }
    } else {
      start_prices(matrix, extremes, classes, matching.price);
      report_.rows_read += cost.rows;
    }
    ListWork work;
    const DenseResult result = solve_lists(matrix, classes, matching, grid.exact(options_.max_gap),
                                           hint != nullptr, interrupt_, work);
    report_.rows_read += work.rows_read;
    report_.list_visits += work.list_visits;
    report_.augmentations += work.augmentations;
    drop_dummies(cost.rows, cost.cols, matching);
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
    finish(matrix.rows > matrix.cols, matching, certificate, grid);
    return true;
  }

  void finish(bool tall, const Matching &matching, const Certificate &certificate,
              const Grid &grid) {
    const std::vector<double> &dual = tall ? certificate.u : matching.price;
    const double zero = tall ? -certificate.floor : certificate.floor;
    std::vector<char> spare(tall ? matching.col_of.size() : matching.row_of.size());
    for (std::size_t k = 0; k < spare.size(); ++k) {
      spare[k] = dual[k] == zero;
    }
    std::vector<std::int64_t> cols = problem_.flipped ? matching.row_of : matching.col_of;
    const std::int64_t *prefer = options_.keep ? options_.prefer : nullptr;
    // A search that stopped early has no optimum to choose among.
    if (certificate.gap == 0 && !interrupt_.stopped()) {
      canonical_optimum(problem_.flipped ? certificate.tight.transposed() : certificate.tight,
                        spare, prefer, cols, interrupt_);
    }
    if (interrupt_.stopped()) {
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
  double seen_largest_ = 0;
  AssignmentReport report_;
};

} // namespace

AssignmentReport solve_assignment(const CostMatrix &cost, const AssignmentOptions &options,
                                  const AssignmentOutput &output) {
  return Solve(cost, options, output).run();
}

} // namespace lmc
