#include "assignment_survey.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "assignment_rows.hpp"

namespace lmc {

namespace {

template <class T> Findings<T> findings_of_rows(std::int64_t rows) {
  Findings<T> findings;
  findings.best.resize(rows);
  findings.least.resize(rows);
  findings.smallest.resize(rows);
  return findings;
}

// Adds the best columns of the next row. False if no matching can give every row one of them:
// another row has the same only one, which is marked as wanted.
template <class T>
bool add_favourites(const T *row, T sign, const RowSummary<T> &summary, TightGraph &favourites,
                    std::vector<char> &wanted) {
  std::uint64_t *bits = favourites.append();
  if (summary.best == summary.least) {
    return summary.best > -std::numeric_limits<T>::infinity();
  }
  if (summary.best > summary.second) {
    favourites.add(favourites.rows - 1, summary.place);
    return !std::exchange(wanted[summary.place], char{1});
  }
  return mark_places(row, sign, summary.best, favourites.cols, bits) > 0;
}

} // namespace

template <class T> Findings<T> survey_dense(const RowMatrix<T> &matrix, Interrupt &interrupt) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const std::int64_t block = (1 << 18) / matrix.cols + 1;
  Findings<T> findings = findings_of_rows<T>(matrix.rows);
  findings.reduced.assign(matrix.cols, -infinity);
  findings.holder.assign(matrix.cols, -1);
  RowTotals<T> totals{findings.best.data(),    findings.least.data(),  findings.smallest.data(),
                      findings.reduced.data(), findings.holder.data(), T{0}};
  for (std::int64_t i = 0; i < matrix.rows && !interrupt(block * matrix.cols); i += block) {
    survey_block(matrix, i, std::min(matrix.rows, i + block), totals);
  }
  const T best = *std::max_element(findings.best.begin(), findings.best.end());
  const T least = *std::min_element(findings.least.begin(), findings.least.end());
  findings.largest = static_cast<double>(std::max(std::abs(best), std::abs(least)));
  findings.poisoned = !(totals.poison == T{0});
  return findings;
}

template <class T> Findings<T> survey_rows(const RowMatrix<T> &matrix, Interrupt &interrupt) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  Findings<T> findings = findings_of_rows<T>(matrix.rows);
  const bool reduce = matrix.rows >= matrix.cols;
  if (reduce) {
    findings.reduced.assign(matrix.cols, -infinity);
  } else {
    findings.second.resize(matrix.rows);
    findings.favourite.resize(matrix.rows);
  }
  const T *first = matrix.row(0);
  const T *middle = matrix.row(matrix.rows / 2);
  const T *last = matrix.row(matrix.rows - 1);
  std::vector<std::int64_t> constant;
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    if (first[j] == middle[j] && first[j] == last[j]) {
      constant.push_back(j);
    }
  }
  std::vector<char> wanted(matrix.rows <= matrix.cols ? matrix.cols : 0);
  if (!wanted.empty()) {
    findings.favourites = TightGraph(0, matrix.cols);
    findings.favourites.bits.reserve(matrix.rows * findings.favourites.words);
  }
  T best = -infinity;
  T least = infinity;
  bool finite = true;
  for (std::int64_t i = 0; i < matrix.rows && !interrupt(matrix.cols); ++i) {
    const T *row = matrix.row(i);
    const RowSummary<T> summary = summarise_row(row, matrix.sign, matrix.cols);
    findings.best[i] = summary.best;
    findings.least[i] = summary.least;
    findings.smallest[i] = summary.smallest;
    best = std::max(best, summary.best);
    least = std::min(least, summary.least);
    finite = finite && summary.finite;
    if (reduce && summary.best > summary.least && summary.best > -infinity) {
      raise_columns(row, matrix.sign, summary.best, findings.reduced.data(), matrix.cols);
    }
    if (!reduce) {
      findings.second[i] = summary.second;
      findings.favourite[i] = static_cast<std::int32_t>(summary.place);
    }
    if (!wanted.empty() &&
        !add_favourites(row, matrix.sign, summary, findings.favourites, wanted)) {
      wanted.clear();
      findings.favourites = TightGraph(0, 0);
    }
    std::erase_if(constant, [&](std::int64_t j) { return row[j] != first[j]; });
  }
  findings.largest = static_cast<double>(std::max(std::abs(best), std::abs(least)));
  findings.poisoned = !finite;
  std::erase_if(constant, [&](std::int64_t j) { return !std::isfinite(first[j]); });
  if (!constant.empty()) {
    findings.column_constant.resize(matrix.cols);
    for (const std::int64_t j : constant) {
      findings.column_constant[j] = 1;
    }
  }
  return findings;
}

template <class T>
Moved count_moved(const RowMatrix<T> &matrix, const Findings<T> &findings, Interrupt &interrupt) {
  // An entry with so many trailing bits to spare is a multiple of the grid's step.
  const double exact = power_of_two(matrix.grid.exponent - matrix.grid.bits) /
                       static_cast<double>(std::numeric_limits<T>::epsilon());
  Moved result{0, 0.0};
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    if (static_cast<double>(findings.smallest[i]) < exact && !interrupt(matrix.cols)) {
      const Moved moved = moved_entries(matrix.row(i), matrix.cols, matrix.grid);
      result.count += moved.count;
      result.by = std::max(result.by, moved.by);
    }
  }
  return result;
}

template <class T> Classes find_classes(const RowMatrix<T> &matrix, const Findings<T> &findings) {
  const std::int64_t order = std::max(matrix.rows, matrix.cols);
  const double ordinary = std::numeric_limits<double>::quiet_NaN();
  Classes classes{std::vector<double>(order, ordinary), std::vector<double>(order, ordinary)};
  // Dummies are worth nothing to anybody, so beside them only zero constants can be a class.
  std::fill(classes.row_value.begin() + matrix.rows, classes.row_value.end(), 0.0);
  std::fill(classes.col_value.begin() + matrix.cols, classes.col_value.end(), 0.0);
  std::int64_t constant = 0;
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    if (findings.best[i] == findings.least[i] && std::isfinite(findings.best[i]) &&
        (matrix.rows <= matrix.cols || findings.best[i] == 0)) {
      classes.row_value[i] = matrix.grid(static_cast<double>(findings.best[i]));
      ++constant;
    }
  }
  if (findings.column_constant.empty() || constant == matrix.rows) {
    return classes;
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    if (findings.column_constant[j] && (matrix.rows >= matrix.cols || matrix.row(0)[j] == 0)) {
      classes.col_value[j] = matrix.exact(0, j);
    }
  }
  return classes;
}

template <class T> bool mostly_tied(const RowMatrix<T> &matrix, const Findings<T> &findings) {
  const std::vector<T> nothing(matrix.cols, T{0});
  std::int64_t seen = 0;
  std::int64_t tied = 0;
  for (std::int64_t i = 0; i < matrix.rows; i += matrix.rows / 32 + 1) {
    if (findings.best[i] > findings.least[i]) {
      const TopTwo<T> top = top_two(matrix.row(i), matrix.sign, nothing.data(), matrix.cols);
      tied += top.best == top.second;
      ++seen;
    }
  }
  return findings.poisoned ? tied > 0 : 5 * tied > 2 * seen;
}

template <class T>
void start_prices(const RowMatrix<T> &matrix, const Findings<T> &findings, const Classes &classes,
                  std::vector<double> &price) {
  if (matrix.rows < matrix.cols) {
    std::fill(price.begin(), price.end(), 0.0);
    return;
  }
  T least_best = std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    if (std::isnan(classes.row_value[i]) && std::isfinite(findings.best[i])) {
      least_best = std::min(least_best, findings.best[i]);
    }
  }
  const double unwanted =
      std::isfinite(least_best) ? matrix.grid(static_cast<double>(least_best)) : 0.0;
  const auto order = static_cast<std::int64_t>(classes.col_value.size());
  for (std::int64_t j = 0; j < order; ++j) {
    if (!std::isnan(classes.col_value[j])) {
      price[j] = classes.col_value[j] - unwanted;
    } else {
      const T reduced = findings.reduced[j];
      price[j] = std::isfinite(reduced) ? matrix.grid(static_cast<double>(reduced)) : 0.0;
    }
  }
}

template <class T>
void claim_favourites(const RowMatrix<T> &matrix, const Findings<T> &findings,
                      const Classes &classes, Matching &matching) {
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    const std::int64_t j = findings.favourite[i];
    const bool bids = std::isnan(classes.row_value[i]) && std::isfinite(findings.second[i]) &&
                      std::isnan(classes.col_value[j]);
    if (!bids) {
      continue;
    }
    const double margin = matrix.exact(i, j) - matrix.grid(static_cast<double>(findings.second[i]));
    const std::int64_t holder = matching.row_of[j];
    if (holder < 0 || margin > matching.price[j]) {
      matching.price[j] = margin;
      matching.row_of[j] = i;
      matching.col_of[i] = j;
      if (holder >= 0) {
        matching.col_of[holder] = -1;
      }
    }
  }
}

template Findings<float> survey_rows(const RowMatrix<float> &, Interrupt &);
template Findings<double> survey_rows(const RowMatrix<double> &, Interrupt &);
template Findings<float> survey_dense(const RowMatrix<float> &, Interrupt &);
template Findings<double> survey_dense(const RowMatrix<double> &, Interrupt &);
template Moved count_moved(const RowMatrix<float> &, const Findings<float> &, Interrupt &);
template Moved count_moved(const RowMatrix<double> &, const Findings<double> &, Interrupt &);
template Classes find_classes(const RowMatrix<float> &, const Findings<float> &);
template Classes find_classes(const RowMatrix<double> &, const Findings<double> &);
template bool mostly_tied(const RowMatrix<float> &, const Findings<float> &);
template bool mostly_tied(const RowMatrix<double> &, const Findings<double> &);
template void start_prices(const RowMatrix<float> &, const Findings<float> &, const Classes &,
                           std::vector<double> &);
template void start_prices(const RowMatrix<double> &, const Findings<double> &, const Classes &,
                           std::vector<double> &);
template void claim_favourites(const RowMatrix<float> &, const Findings<float> &, const Classes &,
                               Matching &);
template void claim_favourites(const RowMatrix<double> &, const Findings<double> &, const Classes &,
                               Matching &);

} // namespace lmc
