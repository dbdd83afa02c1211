#include "assignment_certificate.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>

#include "assignment_dense_rows.hpp"
#include "assignment_exact_rows.hpp"
#include "parallel.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// The margins of columns: price_j minus the best offer of any row but its own.
template <class Entry>
std::vector<double> column_margins(std::int64_t rows, std::int64_t cols, const Matching &matching,
                                   const std::vector<double> &u, const Entry &entry,
                                   Interrupt &interrupt) {
  std::vector<double> offer(cols, -infinity);
  for (std::int64_t i = 0; i < rows && !interrupt(2 * cols); ++i) {
    const std::int64_t own = matching.col_of[i];
    const double kept = own < 0 ? 0.0 : offer[own];
    for (std::int64_t j = 0; j < cols; ++j) {
      const double x = entry(i, j) - u[i];
      offer[j] = x > offer[j] ? x : offer[j];
    }
    if (own >= 0) {
      offer[own] = kept;
    }
  }
  for (std::int64_t j = 0; j < cols; ++j) {
    offer[j] = matching.price[j] - offer[j];
  }
  return offer;
}

// Finds the columns that could be a row's best in float32 and looks at these exactly.
class Filter {
public:
  Filter(const RowMatrix<float> &matrix, const std::vector<double> &price, double row_floor)
      : matrix_(matrix), price_(price), rounded_(matrix.cols) {
    const auto unit = static_cast<float>(std::ldexp(1.0, matrix.grid.exponent));
    double largest = std::isfinite(row_floor) ? std::abs(row_floor) : 0.0;
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      rounded_[j] = static_cast<float>(price[j]) * unit;
      largest = std::max(largest, std::abs(price[j]));
    }
    error_ = matrix.grid.difference_error(largest, std::numeric_limits<float>::epsilon());
    unit_ = unit;
  }

  // The best profit of row i, or `level`, its profit from the column `own` (-1: none), if that is
  // more; sets the bits of the columns that reach it.
  double check(std::int64_t i, std::int64_t own, double level, std::uint64_t *tight) const {
    constexpr std::int64_t most = 16;
    std::array<std::int32_t, most> places;
    const float *row = matrix_.row(i);
    const std::int64_t found =
        others_reaching(row, matrix_.sign, rounded_.data(), matrix_.cols,
                        static_cast<float>(level - error_) * unit_, own, most, places.data());
    if (found < 0) {
      return std::max(level, check_row(matrix_, row, price_.data(), level, tight).best);
    }
    if (own >= 0) {
      tight[own / 64] |= std::uint64_t{1} << (own % 64);
    }
    double best = level;
    for (std::int64_t k = 0; k < found; ++k) {
      const std::int64_t j = places[static_cast<std::size_t>(k)];
      const double profit = matrix_.exact(i, j) - price_[j];
      best = std::max(best, profit);
      tight[j / 64] |= std::uint64_t{profit >= level} << (j % 64);
    }
    return best;
  }

private:
  const RowMatrix<float> &matrix_;
  const std::vector<double> &price_;
  std::vector<float> rounded_;
  float unit_ = 1;
  double error_ = 0;
};

// The gap and what follows from it, once u is known.
template <class Entry>
void conclude(std::int64_t rows, std::int64_t cols, const Matching &matching, Margins margins,
              const Entry &entry, Certificate &result, Interrupt &interrupt) {
  if (rows < cols) {
    result.floor = *std::min_element(matching.price.begin(), matching.price.begin() + cols);
  } else if (rows > cols) {
    result.floor = -matching.row_floor;
  }
  result.largest = std::abs(result.floor);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t j = matching.col_of[i];
    result.gap += result.u[i] - (j < 0 ? matching.row_floor : entry(i, j) - matching.price[j]);
    result.largest = std::max(result.largest, std::abs(result.u[i]));
  }
  for (std::int64_t j = 0; j < cols; ++j) {
    if (matching.row_of[j] < 0) {
      result.gap += matching.price[j] - result.floor;
    }
    result.largest = std::max(result.largest, std::abs(matching.price[j]));
  }
  if (margins == Margins::of_columns) {
    result.margins = column_margins(rows, cols, matching, result.u, entry, interrupt);
  }
}

} // namespace

template <class T>
Certificate certify(const RowMatrix<T> &matrix, const Matching &matching, Margins margins,
                    int threads, Interrupt &interrupt) {
  Certificate result;
  result.u.resize(matrix.rows);
  result.margins.resize(matrix.rows);
  result.tight = TightGraph(matrix.rows, matrix.cols);
  std::vector<double> price(padded(matrix.cols));
  std::copy_n(matching.price.begin(), matrix.cols, price.begin());
  const std::int64_t grain =
      std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix.cols, 1));
  std::optional<Filter> filter;
  if constexpr (std::is_same_v<T, float>) {
    if (margins == Margins::none && matrix.grid.leaves_float32_room()) {
      filter.emplace(matrix, price, matching.row_floor);
    }
  }
  Workers workers(interrupt);
  parallel_for(matrix.rows, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    workers.run(begin, end, [&](std::int64_t i, Interrupt &poll) {
      const std::int64_t own = matching.col_of[i];
      const double profit = own < 0 ? matching.row_floor : matrix.exact(i, own) - price[own];
      std::uint64_t *tight = result.tight.bits.data() + i * result.tight.words;
      if (filter) {
        result.u[i] = filter->check(i, own, profit, tight);
        poll(2 * matrix.cols);
        return;
      }
      const RowCheck check = check_row(matrix, matrix.row(i), price.data(), profit, tight);
      result.u[i] = std::max(check.best, matching.row_floor);
      // Where its own column is the best, the second best is another's.
      const bool content = own >= 0 && profit == check.best;
      result.margins[i] = result.u[i] - (content ? check.second : check.best);
      poll(2 * matrix.cols);
    });
  });
  if (!interrupt.stopped()) {
    conclude(
        matrix.rows, matrix.cols, matching, margins,
        [&matrix](std::int64_t i, std::int64_t j) { return matrix.exact(i, j); }, result,
        interrupt);
  }
  return result;
}

template Certificate certify(const RowMatrix<float> &, const Matching &, Margins, int, Interrupt &);
template Certificate certify(const RowMatrix<double> &, const Matching &, Margins, int,
                             Interrupt &);

} // namespace lmc
