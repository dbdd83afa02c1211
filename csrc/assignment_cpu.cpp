#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "assignment.hpp"
#include "assignment_certificate.hpp"
#include "assignment_columns.hpp"
#include "assignment_components.hpp"
#include "assignment_copies.hpp"
#include "assignment_dense.hpp"
#include "assignment_exact_rows.hpp"
#include "assignment_favourites.hpp"
#include "assignment_grid.hpp"
#include "assignment_lists.hpp"
#include "assignment_rank_one.hpp"
#include "assignment_regrets.hpp"
#include "assignment_solver.hpp"
#include "assignment_survey.hpp"
#include "assignment_ties.hpp"
#include "assignment_transport.hpp"
#include "assignment_turned.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int finest_bits = 46;
constexpr double hint_limit = 4; // initial prices beyond so many times the largest entry are cut
constexpr std::int64_t largest_dense = 320 * 320;  // entries; the lists pay above
constexpr std::int64_t largest_copy = 4096 * 1024; // entries, where lists might do without it

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

// The entries row after row, for a matrix that has them column after column. Nothing for another.
template <class T> std::unique_ptr<T[]> by_rows(const CostMatrix &cost, Interrupt &interrupt) {
  if (cost.col_stride == 1) {
    return nullptr;
  }
  constexpr std::int64_t breadth = 64; // of the part turned at a time
  const auto entries = static_cast<std::size_t>(cost.rows * cost.cols);
  auto values = std::make_unique_for_overwrite<T[]>(entries);
  const auto *data = static_cast<const T *>(cost.data);
  for (std::int64_t i = 0; i < cost.rows; i += breadth) {
    if (interrupt(breadth * cost.cols)) {
      std::fill(values.get() + i * cost.cols, values.get() + entries, T{0});
      break;
    }
    turn(data + i, cost.col_stride, cost.cols, std::min(breadth, cost.rows - i),
         values.get() + i * cost.cols);
  }
  return values;
}

constexpr bool is_tall(std::int64_t rows, std::int64_t cols) { return rows > cols + cols / 2; }

// Lists of more lines than find a partner cost more than a copy the other way. From a breadth of
// 1024 on there is to be no copy.
bool is_worth_turning(const CostMatrix &cost) {
  const bool by_row = cost.col_stride == 1;
  const std::int64_t lines = by_row ? cost.rows : cost.cols;
  const std::int64_t breadth = by_row ? cost.cols : cost.rows;
  return breadth < 1024 && lines > breadth + breadth / 32;
}

// Back from the squared problem to the given one.
void drop_dummies(std::int64_t rows, std::int64_t cols, Matching &matching) {
  if (rows == cols) {
    matching.price.resize(cols);
    return;
  }
  if (rows > cols) {
    const auto first = matching.price.begin();
    matching.row_floor = -*std::min_element(first + cols, first + rows);
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

// Squares the problem again after a solve by whole rows. The rows that want another column lose
// theirs, and so do constant ones, which always bid together.
template <class T>
void release_discontent(const RowMatrix<T> &matrix, const Classes &classes,
                        const Certificate &certificate, Matching &matching) {
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    const std::int64_t j = matching.col_of[i];
    if (certificate.u[i] > matrix.exact(i, j) - matching.price[j] ||
        !std::isnan(classes.row_value[i])) {
      matching.col_of[i] = matching.row_of[j] = -1;
    }
  }
  matching.col_of.resize(matrix.cols, -1);
  matching.price.resize(padded(matrix.cols));
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
        problem_(orient(cost, false, options.maximize ? 1.0 : -1.0)) {}

  AssignmentReport run() {
    if (cost_.rows == 0 || cost_.cols == 0) {
      std::fill_n(output_.cols, cost_.rows, std::int64_t{-1});
      clear(output_.u, cost_.rows, 0.0);
      clear(output_.v, cost_.cols, 0.0);
      clear(output_.margins, cost_.rows, infinity);
      clear(output_.regrets, cost_.rows, infinity);
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

  template <class T> AssignmentReport run_typed() {
    const bool small = cost_.rows * cost_.cols <= largest_dense;
    Outcome outcome = small ? Outcome::outgrew : run_path<T>(Path::lists);
    if (outcome == Outcome::turn) {
      outcome = run_path<T>(Path::turned_lists);
    }
    if (outcome == Outcome::outgrew) {
      run_path<T>(Path::dense);
    }
    report_.rows_read += work_.rows_read;
    report_.list_visits = work_.list_visits;
    report_.augmentations = work_.augmentations;
    return report_;
  }

  // By scans of whole rows, or by lists of the lines as they stand or of a copy the other way.
  enum class Path { dense, lists, turned_lists };

  // `outgrew`: precision was lost. `turn`: better by lists of a copy.
  enum class Outcome { settled, outgrew, turn };

  template <class T> Outcome run_path(Path path) {
    const bool dense = path == Path::dense;
    const bool square = cost_.rows == cost_.cols;
    const bool flipped = dense && !square ? cost_.rows > cost_.cols
                                          : (cost_.col_stride != 1) != (path == Path::turned_lists);
    problem_ = orient(cost_, flipped, problem_.sign);
    may_turn_ = path == Path::lists && is_worth_turning(cost_);
    if (may_turn_ && (hint() || cost_.rows * cost_.cols <= largest_copy)) {
      return Outcome::turn;
    }
    const CostMatrix &cost = problem_.cost;
    const std::unique_ptr<T[]> copy = by_rows<T>(cost, interrupt_);
    RowMatrix<T> matrix{copy ? copy.get() : static_cast<const T *>(cost.data),
                        cost.rows,
                        cost.cols,
                        copy ? cost.cols : cost.row_stride,
                        static_cast<T>(problem_.sign),
                        {}};
    Findings<T> findings =
        dense ? survey_dense(matrix, interrupt_) : survey_rows(matrix, interrupt_);
    report_.rows_read += cost.rows;
    if (interrupt_.stopped()) {
      report_.status = AssignmentStatus::interrupted;
      return Outcome::settled;
    }
    largest_ = findings.largest;
    if (findings.poisoned) {
      const Survey seen = survey(cost_, options_.maximize, interrupt_);
      largest_ = seen.largest;
      if (seen.bad_row >= 0) {
        report_.bad_row = seen.bad_row;
        report_.bad_col = seen.bad_col;
        report_.status = AssignmentStatus::invalid_value;
        return Outcome::settled;
      }
    }
    if (!dense && !Grid::covering(largest_, finest_bits).leaves_float32_room()) {
      return Outcome::outgrew;
    }
    const Copies copies = dense ? Copies{} : find_copies(matrix, findings, interrupt_);
    if (may_turn_ && copies.any()) {
      return Outcome::turn;
    }
    if (copies.any()) {
      findings.favourites = TightGraph(0, 0); // the transport problem needs the memory
    }
    // Only forbidden pairs let prices grow beyond a few times the largest entry; the grid is made
    // coarser when they did.
    for (int bits = finest_bits;; bits -= 8) {
      matrix.grid = Grid::covering(largest_, bits);
      report_.grid = matrix.grid.restore(power_of_two(-bits));
      const Moved moved = count_moved(matrix, findings, interrupt_);
      report_.moved = moved.count;
      report_.moved_by = matrix.grid.restore(moved.by);
      matrix.rounds = moved.count > 0 || matrix.grid.scale_rest != 1;
      matrix.factor = static_cast<double>(matrix.sign) * matrix.grid.scale;
      Outcome outcome = copies.any() ? attempt_kinds(matrix, findings, copies) : Outcome::outgrew;
      if (outcome == Outcome::outgrew) {
        outcome = attempt(dense, matrix, findings);
      }
      if (outcome != Outcome::outgrew) {
        return outcome;
      }
    }
  }

  // With a source or sink for each kind of row or column. `outgrew` where some of a kind turn out
  // to differ, too.
  template <class T>
  Outcome attempt_kinds(const RowMatrix<T> &matrix, const Findings<T> &findings,
                        const Copies &copies) {
    const std::int64_t order = std::max(matrix.rows, matrix.cols);
    Matching matching = empty_matching(order);
    if (!given_prices(matrix, findings, matching)) {
      const Classes none{std::vector<double>(matrix.rows, NAN),
                         std::vector<double>(matrix.cols, NAN)};
      start_prices(matrix, findings, none, matching.price);
    }
    const SolverResult result =
        solve_transport(matrix, copies, matching, {.warm = hint() != nullptr}, interrupt_, work_);
    Certificate certificate = prove(result, matrix, matching);
    if (result == SolverResult::infeasible || certificate.gap != 0) {
      return Outcome::outgrew;
    }
    return settle(result, matching, matrix, certificate);
  }

  static Matching empty_matching(std::int64_t order) {
    return {std::vector<std::int64_t>(order, -1), std::vector<std::int64_t>(order, -1),
            std::vector<double>(padded(order))};
  }

  template <class T>
  Outcome attempt(bool dense, const RowMatrix<T> &matrix, Findings<T> &findings) {
    Classes classes = find_classes(matrix, findings);
    const std::int64_t order = std::max(matrix.rows, matrix.cols);
    Matching matching = empty_matching(order);
    if (findings.favourites.rows > 0) {
      // The graph goes before the certificate has its own.
      if (match_favourites(std::exchange(findings.favourites, TightGraph(0, 0)), matching,
                           interrupt_)) {
        Certificate certificate = prove(SolverResult::ok, matrix, matching);
        return settle(SolverResult::ok, matching, matrix, certificate);
      }
      matching = empty_matching(order);
    }
    if (!dense && is_tall(matrix.rows, matrix.cols) && !hint()) {
      const SolverResult result = solve_columns(matrix, classes, matching, interrupt_, work_);
      if (result != SolverResult::unfinished) {
        Certificate certificate = prove(result, matrix, matching);
        return settle(result, matching, matrix, certificate);
      }
      if (may_turn_) {
        return Outcome::turn;
      }
    }
    if (!given_prices(matrix, findings, matching)) {
      if (dense) {
        claim_columns(matrix, findings, matching);
      } else if (matrix.rows < matrix.cols) {
        claim_favourites(matrix, findings, classes, matching);
      } else {
        start_prices(matrix, findings, classes, matching.price);
      }
    }
    SolverOptions asked = solver_options(dense, matrix, findings);
    SolverResult result = dense ? solve_dense(matrix, classes, matching, asked, interrupt_, work_)
                                : solve_lists(matrix, classes, matching, asked, interrupt_, work_);
    Certificate certificate = prove(result, matrix, matching);
    // Columns were claimed by rounded differences.
    if (dense && certificate.gap > asked.tolerance && !outgrew(matrix.grid, certificate)) {
      release_discontent(matrix, classes, certificate, matching);
      asked.tied = true;
      result = solve_dense(matrix, classes, matching, asked, interrupt_, work_);
      certificate = prove(result, matrix, matching);
    }
    return settle(result, matching, matrix, certificate);
  }

  template <class T>
  Certificate prove(SolverResult result, const RowMatrix<T> &matrix, Matching &matching) {
    drop_dummies(matrix.rows, matrix.cols, matching);
    if (result != SolverResult::ok) {
      return {};
    }
    report_.rows_read += matrix.rows;
    return certify(matrix, matching, wanted(), options_.threads, interrupt_);
  }

  static bool outgrew(const Grid &grid, const Certificate &certificate) {
    return certificate.largest >= power_of_two(51 - grid.bits);
  }

  template <class T>
  SolverOptions solver_options(bool dense, const RowMatrix<T> &matrix,
                               const Findings<T> &findings) const {
    SolverOptions asked{.tolerance = matrix.grid.exact(options_.max_gap),
                        .warm = hint() != nullptr,
                        .tied = matrix.rows * matrix.cols > 4096 && mostly_tied(matrix, findings)};
    if (dense) {
      // Only scaling ends early.
      asked.open_share = asked.tolerance > 0 ? 16 : 8;
      asked.spread_sample = 8;
    } else if (matrix.rows < matrix.cols) {
      // Searches soon come to a column that is to spare.
      asked.open_share = 8;
    }
    // Rows that find no partner are open for long, whatever epsilon is.
    asked.restarts = matrix.rows <= matrix.cols;
    return asked;
  }

  const double *hint() const { return problem_.flipped ? options_.initial_u : options_.initial_v; }

  Margins wanted() const {
    return !output_.margins ? Margins::none
                            : (problem_.flipped ? Margins::of_columns : Margins::of_rows);
  }

  // Prices to start from that need no reduction of the matrix. False if there are none.
  template <class T>
  bool given_prices(const RowMatrix<T> &matrix, const Findings<T> &findings, Matching &matching) {
    if (const double *prices = hint()) {
      for (std::int64_t j = 0; j < matrix.cols; ++j) {
        matching.price[j] = matrix.grid(
            std::clamp(problem_.sign * prices[j], -hint_limit * largest_, hint_limit * largest_));
      }
      return true;
    }
    return !findings.poisoned && rank_one_prices(matrix, matching.price, interrupt_);
  }

  template <class T>
  Outcome settle(SolverResult result, const Matching &matching, const RowMatrix<T> &matrix,
                 Certificate &certificate) {
    const Grid &grid = matrix.grid;
    if (result != SolverResult::ok) {
      report_.status = result == SolverResult::infeasible ? AssignmentStatus::infeasible
                                                          : AssignmentStatus::interrupted;
      return Outcome::settled;
    }
    if (interrupt_.stopped()) {
      report_.status = AssignmentStatus::interrupted;
      return Outcome::settled;
    }
    if (outgrew(grid, certificate)) {
      return Outcome::outgrew;
    }
    report_.gap = grid.restore(certificate.gap);
    finish(matrix, matching, certificate);
    return Outcome::settled;
  }

  template <class T>
  void finish(const RowMatrix<T> &matrix, const Matching &matching, Certificate &certificate) {
    const bool tall = matrix.rows > matrix.cols;
    const std::vector<double> &dual = tall ? certificate.u : matching.price;
    const double zero = tall ? -certificate.floor : certificate.floor;
    std::vector<char> spare(matrix.rows == matrix.cols ? 0 : dual.size());
    for (std::size_t k = 0; k < spare.size(); ++k) {
      spare[k] = dual[k] == zero;
    }
    const std::vector<std::int64_t> &found = problem_.flipped ? matching.row_of : matching.col_of;
    const std::span<std::int64_t> cols(output_.cols, found.size());
    std::copy(found.begin(), found.end(), cols.begin());
    const Components components =
        output_.regrets ? find_components(certificate.tight, matching, spare, interrupt_)
                        : Components{};
    const std::int64_t *prefer = options_.keep ? options_.prefer : nullptr;
    // A search that stopped early has no optimum to choose among.
    if (certificate.gap == 0) {
      if (problem_.flipped) {
        // In its place: a bit an entry is a 32nd of the matrix.
        certificate.tight = certificate.tight.transposed(interrupt_);
      }
      canonical_optimum(certificate.tight, spare, prefer, cols, interrupt_);
    }
    certificate.tight = TightGraph(0, 0);
    if (output_.regrets && !interrupt_.stopped()) {
      write_regrets(matrix, matching, certificate, components, cols);
    }
    if (interrupt_.stopped()) {
      report_.status = AssignmentStatus::interrupted;
      return;
    }
    if (options_.objective) {
      report_.objective = objective_of(cost_, cols.data());
    }
    write_duals(matching, certificate, matrix.grid);
  }

  // Of the rows that some optimum places elsewhere, the regret is zero.
  template <class T>
  void write_regrets(const RowMatrix<T> &matrix, const Matching &matching,
                     const Certificate &certificate, const Components &components,
                     std::span<const std::int64_t> cols) {
    const std::vector<std::int64_t> &found = problem_.flipped ? matching.row_of : matching.col_of;
    const std::vector<double> values =
        regrets(matrix, matching, certificate, components, problem_.flipped, options_.threads,
                interrupt_, work_);
    for (std::size_t i = 0; i < values.size(); ++i) {
      output_.regrets[i] = cols[i] == found[i] ? matrix.grid.restore(values[i]) : 0.0;
    }
  }

  void write_duals(const Matching &matching, const Certificate &certificate, const Grid &grid) {
    double *by_row = problem_.flipped ? output_.v : output_.u;
    double *by_col = problem_.flipped ? output_.u : output_.v;
    // Adding zero leaves none that is negative.
    if (by_row) {
      for (std::size_t i = 0; i < certificate.u.size(); ++i) {
        by_row[i] = grid.restore(problem_.sign * (certificate.u[i] + certificate.floor)) + 0.0;
      }
    }
    if (by_col) {
      for (std::size_t j = 0; j < matching.row_of.size(); ++j) {
        by_col[j] = grid.restore(problem_.sign * (matching.price[j] - certificate.floor)) + 0.0;
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
  bool may_turn_ = false; // a copy the other way is a path
  double largest_ = 0;
  SolverWork work_;
  AssignmentReport report_;
};

} // namespace

AssignmentReport solve_assignment(const CostMatrix &cost, const AssignmentOptions &options,
                                  const AssignmentOutput &output) {
  return Solve(cost, options, output).run();
}

} // namespace lmc
