#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "assignment.hpp"
#include "assignment_dense.hpp"
#include "assignment_grid.hpp"
#include "assignment_ties.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int finest_bits = 46;

// The problem the solvers see: maximise, rows <= cols. `flipped` says that its rows are the
// caller's columns.
struct Oriented {
  CostMatrix cost;
  bool flipped;
  double sign;
};

Oriented orient(const CostMatrix &cost, bool maximize) {
  const double sign = maximize ? 1.0 : -1.0;
  if (cost.rows <= cost.cols) {
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

struct Certificate {
  std::vector<double> u, margins;
  double gap = 0;
  double floor = 0; // the price of every column without partner
  double largest = 0;
};

Certificate certify(const DenseProblem &problem, const Matching &matching) {
  Certificate result;
  const std::vector<double> &price = matching.price;
  result.u.resize(problem.rows);
  if (problem.rows < problem.cols) {
    result.floor = *std::min_element(price.begin(), price.begin() + problem.cols);
  }
  for (std::int64_t i = 0; i < problem.rows; ++i) {
    const double *row = problem.values + i * problem.stride;
    const TopTwo top = top_two(row, price.data(), problem.stride);
    const std::int64_t j = matching.col_of[i];
    result.u[i] = top.best;
    result.gap += top.best - (row[j] - price[j]);
    result.largest = std::max(result.largest, std::abs(top.best));
  }
  for (std::int64_t j = 0; j < problem.cols; ++j) {
    if (matching.row_of[j] < 0) {
      result.gap += price[j] - result.floor;
    }
    result.largest = std::max(result.largest, std::abs(price[j]));
  }
  return result;
}

TightGraph tight_graph(const DenseProblem &problem, const std::vector<double> &u,
                       const std::vector<double> &price) {
  TightGraph graph(problem.rows, problem.cols);
  for (std::int64_t i = 0; i < problem.rows; ++i) {
    const double *row = problem.values + i * problem.stride;
    for (std::int64_t j = 0; j < problem.cols; ++j) {
      if (row[j] - price[j] == u[i]) {
        graph.add(i, j);
      }
    }
  }
  return graph;
}

// How much worse every caller's row would be with its second choice, under the duals.
std::vector<double> margins_of(const DenseProblem &problem, const std::vector<double> &u,
                               const std::vector<double> &price,
                               const std::vector<std::int64_t> &col_of, bool flipped) {
  std::vector<double> margins(flipped ? problem.cols : problem.rows, infinity);
  for (std::int64_t i = 0; i < problem.rows; ++i) {
    const double *row = problem.values + i * problem.stride;
    for (std::int64_t j = 0; j < problem.cols; ++j) {
      if (j != col_of[i]) {
        double &margin = margins[flipped ? j : i];
        const double slack = u[i] + price[j] - row[j];
        margin = slack < margin ? slack : margin;
      }
    }
  }
  return margins;
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
    const Survey seen = survey(cost_, options_.maximize);
    if (seen.bad_row >= 0) {
      report_.bad_row = seen.bad_row;
      report_.bad_col = seen.bad_col;
      report_.status = AssignmentStatus::invalid_value;
      return report_;
    }
    // Only forbidden pairs let prices grow beyond a few times the largest entry; the grid is made
    // coarser when they did.
    for (int bits = finest_bits; !attempt(Grid::covering(seen.largest, bits)); bits -= 8) {
    }
    return report_;
  }

private:
  static void clear(double *out, std::int64_t count, double value) {
    if (out) {
      std::fill_n(out, count, value);
    }
  }

  // False where the prices outgrew the grid.
  bool attempt(const Grid &grid) {
    const std::int64_t rows = problem_.cost.rows;
    const std::int64_t cols = problem_.cost.cols;
    const std::int64_t stride = padded(cols);
    std::vector<double> values(rows * stride);
    if (cost_.float64) {
      fill_grid<double>(problem_, grid, values, report_);
    } else {
      fill_grid<float>(problem_, grid, values, report_);
    }
    report_.grid = grid.restore(std::ldexp(1.0, -grid.bits));
    const DenseProblem dense{values.data(), rows, cols, stride};
    Matching matching{std::vector<std::int64_t>(rows, -1), std::vector<std::int64_t>(cols, -1),
                      std::vector<double>(stride, 0.0)};
    DenseWork work;
    const DenseResult result = solve_dense(dense, matching, interrupt_, work);
    report_.rows_read = work.rows_read;
    report_.augmentations = work.augmentations;
    if (result != DenseResult::ok) {
      report_.status = result == DenseResult::infeasible ? AssignmentStatus::infeasible
                                                         : AssignmentStatus::interrupted;
      return true;
    }
    const Certificate certificate = certify(dense, matching);
    if (certificate.largest >= std::ldexp(1.0, 51 - grid.bits)) {
      return false;
    }
    report_.gap = grid.restore(certificate.gap);
    finish(dense, matching, certificate, grid);
    return true;
  }

  void finish(const DenseProblem &dense, const Matching &matching, const Certificate &certificate,
              const Grid &grid) {
    std::vector<std::int64_t> cols = matching.col_of;
    TightGraph graph = tight_graph(dense, certificate.u, matching.price);
    std::vector<char> spare(dense.cols, 0);
    for (std::int64_t j = 0; j < dense.cols; ++j) {
      spare[j] = matching.price[j] == certificate.floor;
    }
    if (problem_.flipped) {
      graph = graph.transposed();
      cols = matching.row_of;
    }
    if (!canonical_optimum(graph, spare, options_.keep ? options_.prefer : nullptr, cols,
                           interrupt_)) {
      report_.status = AssignmentStatus::interrupted;
      return;
    }
    std::copy(cols.begin(), cols.end(), output_.cols);
    report_.objective = objective_of(cost_, cols.data());
    write_duals(dense, matching, certificate, grid, cols);
  }

  void write_duals(const DenseProblem &dense, const Matching &matching,
                   const Certificate &certificate, const Grid &grid,
                   const std::vector<std::int64_t> &cols) {
    double *by_row = problem_.flipped ? output_.v : output_.u;
    double *by_col = problem_.flipped ? output_.u : output_.v;
    if (by_row) {
      for (std::int64_t i = 0; i < dense.rows; ++i) {
        by_row[i] = grid.restore(problem_.sign * (certificate.u[i] + certificate.floor));
      }
    }
    if (by_col) {
      for (std::int64_t j = 0; j < dense.cols; ++j) {
        by_col[j] = grid.restore(problem_.sign * (matching.price[j] - certificate.floor));
      }
    }
    if (output_.margins) {
      std::vector<std::int64_t> inner(dense.rows, -1);
      for (std::int64_t r = 0; r < cost_.rows; ++r) {
        if (!problem_.flipped) {
          inner[r] = cols[r];
        } else if (cols[r] >= 0) {
          inner[cols[r]] = r;
        }
      }
      const std::vector<double> margins =
          margins_of(dense, certificate.u, matching.price, inner, problem_.flipped);
      std::transform(margins.begin(), margins.end(), output_.margins,
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
