#include "assignment_rank_one.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "simd.hpp"

namespace lmc {
namespace {

constexpr int sample = 8;
constexpr double largest_residual = 0.1; // share of the sample's energy that rank one leaves

// A sample of rows and columns, with the means of both taken out, minus the cross through its
// largest entry. Returns the row of that entry in the matrix, -1 if too much is left.
template <class T> std::int64_t pivot_row(const RowMatrix<T> &matrix) {
  using Line = std::array<double, sample>;
  const auto place = [&matrix](int k) { return (2 * k + 1) * matrix.rows / (2 * sample); };
  std::array<Line, sample> a;
  Line column_mean{};
  // Most matrices are seen not to be nearly of rank one: what runs once is to be short.
#pragma GCC unroll 1
  for (int i = 0; i < sample; ++i) {
    const T *row = matrix.row(place(i));
    double mean = 0;
#pragma GCC unroll 1
    for (int j = 0; j < sample; ++j) {
      a[i][j] = static_cast<double>(matrix.sign * row[place(j)]);
      mean += a[i][j] / sample;
    }
    for (int j = 0; j < sample; ++j) {
      a[i][j] -= mean;
      column_mean[j] += a[i][j] / sample;
    }
  }
  Line energies{};
  double peak = 0;
  int at_row = 0;
  int at_col = 0;
#pragma GCC unroll 1
  for (int i = 0; i < sample; ++i) {
    for (int j = 0; j < sample; ++j) {
      a[i][j] -= column_mean[j];
      energies[j] += a[i][j] * a[i][j];
    }
#pragma GCC unroll 1
    for (int j = 0; j < sample; ++j) {
      if (std::abs(a[i][j]) > peak) {
        peak = std::abs(a[i][j]);
        at_row = i;
        at_col = j;
      }
    }
  }
  const double most = largest_residual * std::accumulate(energies.begin(), energies.end(), 0.0);
  double left = 0;
  for (int i = 0; i < sample && left <= most; ++i) {
    const double factor = a[i][at_col] / a[at_row][at_col];
    for (int j = 0; j < sample; ++j) {
      const double rest = a[i][j] - factor * a[at_row][j];
      left += rest * rest;
    }
  }
  return left <= most && peak > 0 ? place(at_row) : -1;
}

// sum += factor * sign * row; returns the product of sign * row with y.
template <class T>
LMC_INLINE double add_row_impl(const T *row, T sign, double factor, const double *y, double *sum,
                               std::int64_t count) {
  Doubles product[2] = {};
  std::int64_t j = 0;
  for (; j + 2 * width<double> <= count; j += 2 * width<double>) {
    for (int k = 0; k < 2; ++k) {
      const std::int64_t at = j + k * width<double>;
      const Doubles a = widened(row + at) * static_cast<double>(sign);
      store(sum + at) = load(sum + at) + a * factor;
      product[k] += a * load(y + at);
    }
  }
  const Doubles both = product[0] + product[1];
  double total = both[0] + both[1] + both[2] + both[3];
  for (; j < count; ++j) {
    const auto a = static_cast<double>(row[j] * sign);
    sum[j] += a * factor;
    total += a * y[j];
  }
  return total;
}

LMC_CLONES double add_row(const float *row, float sign, double factor, const double *y, double *sum,
                          std::int64_t count) {
  return add_row_impl(row, sign, factor, y, sum, count);
}
LMC_CLONES double add_row(const double *row, double sign, double factor, const double *y,
                          double *sum, std::int64_t count) {
  return add_row_impl(row, sign, factor, y, sum, count);
}

std::vector<std::int64_t> ascending(const std::vector<double> &values) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
    return values[i] < values[j] || (values[i] == values[j] && i < j);
  });
  return order;
}

} // namespace

template <class T>
bool rank_one_prices(const RowMatrix<T> &matrix, std::vector<double> &price, Interrupt &interrupt) {
  const std::int64_t n = matrix.rows;
  // Squares must stay within the range of doubles.
  const bool suitable = n == matrix.cols && n >= 2 * sample && std::abs(matrix.grid.exponent) < 400;
  const std::int64_t pivot = suitable ? pivot_row(matrix) : -1;
  if (pivot < 0) {
    return false;
  }
  // y: the difference of the pivot row and the mean of a few others.
  std::vector<double> y(n, 0.0);
  for (int k = 0; k < sample; ++k) {
    add_row(matrix.row((2 * k + 1) * n / (2 * sample)), matrix.sign, -1.0 / sample, y.data(),
            y.data(), n);
  }
  add_row(matrix.row(pivot), matrix.sign, 1.0, y.data(), y.data(), n);
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / static_cast<double>(n);
  double norm = 0;
  for (double &value : y) {
    value -= mean_y;
    norm += value * value;
  }
  if (!(norm > 0)) {
    return false;
  }
  // x up to a constant, which the columns' part c takes up.
  std::vector<double> x(n);
  std::vector<double> c(n, 0.0);
  double mean_x = 0;
  for (std::int64_t i = 0; i < n && !interrupt(2 * n); ++i) {
    x[i] = add_row(matrix.row(i), matrix.sign, 1.0, y.data(), c.data(), n) / norm;
    mean_x += x[i] / static_cast<double>(n);
  }
  const std::vector<std::int64_t> rows = ascending(x);
  const std::vector<std::int64_t> cols = ascending(y);
  double rise = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t j = cols[k];
    if (k > 0) {
      rise += (x[rows[k - 1]] + x[rows[k]]) / 2 * (y[j] - y[cols[k - 1]]);
    }
    price[j] = matrix.grid(c[j] / static_cast<double>(n) - mean_x * y[j] + rise);
  }
  return true;
}

template bool rank_one_prices(const RowMatrix<float> &, std::vector<double> &, Interrupt &);
template bool rank_one_prices(const RowMatrix<double> &, std::vector<double> &, Interrupt &);

} // namespace lmc
