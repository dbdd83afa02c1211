#include "assignment_certificate.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>

#include "assignment_dense_rows.hpp"
#include "assignment_exact_rows.hpp"
#include "assignment_scratch.hpp"
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

// What follows from the prices alone, and the gap of columns without partner.
void conclude(std::int64_t rows, std::int64_t cols, const Matching &matching, double largest_price,
              Certificate &result) {
  if (rows < cols) {
    result.floor = *std::min_element(matching.price.begin(), matching.price.begin() + cols);
    for (std::int64_t j = 0; j < cols; ++j) {
      if (matching.row_of[j] < 0) {
        result.gap += matching.price[j] - result.floor;
      }
    }
  } else if (rows > cols) {
    result.floor = -matching.row_floor;
  }
  // No entry is larger than 1.
  result.largest = 1 + std::max(std::abs(result.floor), largest_price);
}

} // namespace

template <class T>
Certificate certify(const RowMatrix<T> &matrix, const Matching &matching, Margins margins,
                    int threads, Interrupt &interrupt) {
  Certificate result;
  result.u.resize(matrix.rows);
  result.tight = TightGraph(matrix.rows, matrix.cols);
  const double *price = matching.price.data();
  std::vector<double> padded_price;
  if (padded(matrix.cols) != matrix.cols) {
    padded_price.resize(padded(matrix.cols));
    std::copy_n(price, matrix.cols, padded_price.begin());
    price = padded_price.data();
  }
  const PricedMatching priced{matching.col_of.data(), matching.row_floor, price};
  const auto unit = static_cast<T>(power_of_two(matrix.grid.exponent));
  Scratch<T> rounded(matrix.cols);
  const double largest = round_prices(price, unit, rounded.data(), matrix.cols);
  const bool with_margins = margins == Margins::of_rows;
  if (with_margins) {
    result.margins.resize(matrix.rows);
  }
  const auto check_with_margins = [&](std::int64_t i) {
    const std::int64_t own = matching.col_of[i];
    const double profit = own < 0 ? matching.row_floor : matrix.exact(i, own) - price[own];
    std::uint64_t *tight = result.tight.bits.data() + i * result.tight.words;
    const RowCheck check = check_row(matrix, matrix.row(i), price, profit, tight);
    result.u[i] = std::max(check.best, matching.row_floor);
    if (with_margins) {
      // Where its own column is the best, the second best is another's.
      const bool content = own >= 0 && profit == check.best;
      result.margins[i] = result.u[i] - (content ? check.second : check.best);
    }
    return result.u[i] - profit;
  };
  const auto check = [&](std::int64_t begin, std::int64_t end) {
    double *best = result.u.data();
    std::uint64_t *tight = result.tight.bits.data();
    if (!with_margins && matrix.cols <= 64) {
      return check_short_rows(matrix, begin, end, priced, best, tight);
    }
    if constexpr (std::is_same_v<T, float>) {
      if (!with_margins && matrix.grid.leaves_float32_room()) {
        const double floor = std::isfinite(matching.row_floor) ? std::abs(matching.row_floor) : 0.0;
        const double error = matrix.grid.difference_error(std::max(largest, floor),
                                                          std::numeric_limits<float>::epsilon());
        return check_rows(matrix, begin, end, priced, {rounded.data(), unit, error}, best, tight);
      }
    }
    double excess = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      excess += check_with_margins(i);
    }
    return excess;
  };
  const std::int64_t block =
      std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix.cols, 1));
  std::atomic<double> gap{0};
  Workers workers(interrupt);
  parallel_for((matrix.rows + block - 1) / block, 1, threads,
               [&](std::int64_t first, std::int64_t last) {
                 workers.run(first, last, [&](std::int64_t k, Interrupt &poll) {
                   const std::int64_t begin = k * block;
                   const std::int64_t end = std::min(matrix.rows, begin + block);
                   gap.fetch_add(check(begin, end)); // in any order: sums are exact
                   poll(2 * matrix.cols * (end - begin));
                 });
               });
  if (!interrupt.stopped()) {
    result.gap = gap;
    conclude(matrix.rows, matrix.cols, matching, largest, result);
    if (margins == Margins::of_columns) {
      result.margins = column_margins(
          matrix.rows, matrix.cols, matching, result.u,
          [&matrix](std::int64_t i, std::int64_t j) { return matrix.exact(i, j); }, interrupt);
    }
  }
  return result;
}

template Certificate certify(const RowMatrix<float> &, const Matching &, Margins, int, Interrupt &);
template Certificate certify(const RowMatrix<double> &, const Matching &, Margins, int,
                             Interrupt &);

} // namespace lmc
