#include "assignment_certificate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

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
  if (margins != Margins::none) {
    result.margins.resize(matrix.rows);
  }
  result.tight = TightGraph(matrix.rows, matrix.cols);
  const double *price = matching.price.data();
  std::vector<double> padded_price;
  if (padded(matrix.cols) != matrix.cols) {
    padded_price.resize(padded(matrix.cols));
    std::copy_n(price, matrix.cols, padded_price.begin());
    price = padded_price.data();
  }
  std::vector<float> rounded;
  PricedMatching priced{matching.col_of.data(), matching.row_floor, price, nullptr, 1, 0};
  if constexpr (std::is_same_v<T, float>) {
    if (margins == Margins::none && matrix.grid.leaves_float32_room()) {
      rounded.resize(matrix.cols);
      priced.rounded = rounded.data();
      priced.unit = static_cast<float>(power_of_two(matrix.grid.exponent));
      const double largest = round_prices(price, priced.unit, rounded.data(), matrix.cols);
      const double floor = std::isfinite(matching.row_floor) ? std::abs(matching.row_floor) : 0.0;
      priced.error = matrix.grid.difference_error(std::max(largest, floor),
                                                  std::numeric_limits<float>::epsilon());
    }
  }
  const auto check_margins = [&](std::int64_t i) {
    const std::int64_t own = matching.col_of[i];
    const double profit = own < 0 ? matching.row_floor : matrix.exact(i, own) - price[own];
    std::uint64_t *tight = result.tight.bits.data() + i * result.tight.words;
    const RowCheck check = check_row(matrix, matrix.row(i), price, profit, tight);
    result.u[i] = std::max(check.best, matching.row_floor);
    // Where its own column is the best, the second best is another's.
    const bool content = own >= 0 && profit == check.best;
    if (margins != Margins::none) {
      result.margins[i] = result.u[i] - (content ? check.second : check.best);
    }
  };
  const std::int64_t block =
      std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix.cols, 1));
  Workers workers(interrupt);
  parallel_for(
      (matrix.rows + block - 1) / block, 1, threads, [&](std::int64_t begin, std::int64_t end) {
        workers.run(begin, end, [&](std::int64_t k, Interrupt &poll) {
          const std::int64_t first = k * block;
          const std::int64_t last = std::min(matrix.rows, first + block);
          if (priced.rounded) {
            if constexpr (std::is_same_v<T, float>) {
              check_rows(matrix, first, last, priced, result.u.data(), result.tight.bits.data());
            }
          } else {
            for (std::int64_t i = first; i < last; ++i) {
              check_margins(i);
            }
          }
          poll(2 * matrix.cols * (last - first));
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
