#include "assignment_rank_one.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "simd.hpp"

namespace lmc {
namespace {

// Lines of the samples: few tell most other matrices at less cost, many those that have much the
// same everywhere but for the lines of a small sample.
constexpr int few = 5;
constexpr int sample = 8;
constexpr int many = 16;
// Shares of the sample's energy that rank one leaves. In a rectangle the rest decides which lines
// have a partner at all.
constexpr double largest_residual = 0.1;
constexpr double largest_of_rectangle = 0.02;

// A sample of so many rows and columns, with the means of both taken out, minus the cross through
// its largest entry. Returns the row of that entry in the matrix, -1 if more than a share of the
// energy is left.
template <class T>
std::int64_t pivot_row(const RowMatrix<T> &matrix, int lines, double largest_share) {
  using Line = std::array<double, many>;
  const auto place = [lines](int k, std::int64_t all) { return (2 * k + 1) * all / (2 * lines); };
  std::array<Line, many> a;
  Line column_mean{};
  // Most matrices are seen not to be nearly of rank one: what runs once is to be short.
#pragma GCC unroll 1
  for (int i = 0; i < lines; ++i) {
    const T *row = matrix.row(place(i, matrix.rows));
    double mean = 0;
#pragma GCC unroll 1
    for (int j = 0; j < lines; ++j) {
      a[i][j] = static_cast<double>(matrix.sign * row[place(j, matrix.cols)]);
      mean += a[i][j] / lines;
    }
    for (int j = 0; j < lines; ++j) {
      a[i][j] -= mean;
      column_mean[j] += a[i][j] / lines;
    }
  }
  double energy = 0;
  double peak = 0;
  int at_row = 0;
  int at_col = 0;
#pragma GCC unroll 1
  for (int i = 0; i < lines; ++i) {
#pragma GCC unroll 1
    for (int j = 0; j < lines; ++j) {
      a[i][j] -= column_mean[j];
      energy += a[i][j] * a[i][j];
      if (std::abs(a[i][j]) > peak) {
        peak = std::abs(a[i][j]);
        at_row = i;
        at_col = j;
      }
    }
  }
  const double most = largest_share * energy;
  double left = 0;
  for (int i = 0; i < lines && left <= most; ++i) {
    const double factor = a[i][at_col] / a[at_row][at_col];
    for (int j = 0; j < lines; ++j) {
      const double rest = a[i][j] - factor * a[at_row][j];
      left += rest * rest;
    }
  }
  return left <= most && peak > 0 ? place(at_row, matrix.rows) : -1;
}

// Of sign * row: its product with y and its sum.
struct Products {
  double with_y, with_ones;
};

// sum += factor * sign * row.
template <class T>
LMC_INLINE Products add_row_impl(const T *row, T sign, double factor, const double *y, double *sum,
                                 std::int64_t count) {
  Doubles product[2] = {};
  Doubles plain[2] = {};
  std::int64_t j = 0;
  for (; j + 2 * width<double> <= count; j += 2 * width<double>) {
    for (int k = 0; k < 2; ++k) {
      const std::int64_t at = j + k * width<double>;
      const Doubles a = widened(row + at) * static_cast<double>(sign);
      store(sum + at) = load(sum + at) + a * factor;
      product[k] += a * load(y + at);
      plain[k] += a;
    }
  }
  const auto total_of = [](const Doubles &v) { return (v[0] + v[1]) + (v[2] + v[3]); };
  Products result{total_of(product[0] + product[1]), total_of(plain[0] + plain[1])};
  for (; j < count; ++j) {
    const auto a = static_cast<double>(row[j] * sign);
    sum[j] += a * factor;
    result.with_y += a * y[j];
    result.with_ones += a;
  }
  return result;
}

LMC_CLONES Products add_row(const float *row, float sign, double factor, const double *y,
                            double *sum, std::int64_t count) {
  return add_row_impl(row, sign, factor, y, sum, count);
}
LMC_CLONES Products add_row(const double *row, double sign, double factor, const double *y,
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

double sum_of(const std::vector<double> &values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double energy_of(const std::vector<double> &values, double mean) {
  return std::accumulate(values.begin(), values.end(), 0.0, [mean](double sum, double value) {
    return sum + (value - mean) * (value - mean);
  });
}

// What a matrix is nearly the sum of: r_i + c_j + x_i y_j, where y has mean zero and c takes up
// that of r. Dummies have nothing: x, y and c cover them, r is of the rows alone.
struct RankOne {
  std::vector<double> x, y, c, r;
  double mean_x = 0;
};

// By y, the difference of the pivot row and the mean of a few others. False where that is nothing.
template <class T>
bool split(const RowMatrix<T> &matrix, std::int64_t pivot, RankOne &parts, Interrupt &interrupt) {
  const std::int64_t m = matrix.rows;
  const std::int64_t n = matrix.cols;
  auto &[x, y, c, r, mean_x] = parts;
  for (std::vector<double> *part : {&x, &y, &c}) {
    part->resize(std::max(m, n));
  }
  r.resize(m);
  for (int k = 0; k < sample; ++k) {
    add_row(matrix.row((2 * k + 1) * m / (2 * sample)), matrix.sign, -1.0 / sample, y.data(),
            y.data(), n);
  }
  add_row(matrix.row(pivot), matrix.sign, 1.0, y.data(), y.data(), n);
  const double mean_y = sum_of(y) / static_cast<double>(n);
  std::for_each(y.begin(), y.begin() + n, [mean_y](double &value) { value -= mean_y; });
  const double norm = energy_of(y, 0.0);
  if (!(norm > 0)) {
    return false;
  }
  for (std::int64_t i = 0; i < m && !interrupt(2 * n); ++i) {
    const Products products = add_row(matrix.row(i), matrix.sign, 1.0, y.data(), c.data(), n);
    x[i] = products.with_y / norm;
    r[i] = products.with_ones / static_cast<double>(n);
  }
  mean_x = sum_of(x) / static_cast<double>(m);
  for (std::int64_t j = 0; j < n; ++j) {
    c[j] = c[j] / static_cast<double>(m) - mean_x * y[j];
  }
  return true;
}

// Dummy rows are worth nothing to any column. Beside them c must be small, and is dropped.
bool drop_columns_part(std::int64_t m, RankOne &parts) {
  const double mean = sum_of(parts.c) / static_cast<double>(parts.c.size());
  const double left = energy_of(parts.c, mean);
  std::fill(parts.c.begin(), parts.c.end(), 0.0);
  return left * static_cast<double>(m) <=
         largest_residual * energy_of(parts.x, 0.0) * energy_of(parts.y, 0.0);
}

// Dummy columns are worth nothing to any row. Beside them r must nearly be a multiple of x, which
// becomes part of x_i y_j.
bool merge_rows_part(std::int64_t n, RankOne &parts) {
  auto &[x, y, c, r, mean_x] = parts;
  const double mean_r = sum_of(r) / static_cast<double>(r.size());
  const double norm = energy_of(x, mean_x);
  double slope = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    slope += (r[i] - mean_r) * (x[i] - mean_x);
  }
  slope /= norm;
  for (std::size_t i = 0; i < r.size(); ++i) {
    r[i] -= slope * (x[i] - mean_x);
  }
  for (std::int64_t j = 0; j < n; ++j) {
    y[j] += slope;
    c[j] -= slope * mean_x;
  }
  return norm > 0 && energy_of(r, mean_r) * static_cast<double>(n) <=
                         largest_residual * energy_of(y, 0.0) * norm;
}

} // namespace

template <class T>
bool rank_one_prices(const RowMatrix<T> &matrix, std::vector<double> &price, Interrupt &interrupt) {
  const std::int64_t m = matrix.rows;
  const std::int64_t n = matrix.cols;
  // Squares must stay within the range of doubles.
  const bool suitable = std::min(m, n) >= many && std::abs(matrix.grid.exponent) < 400;
  const double largest = m == n ? largest_residual : largest_of_rectangle;
  const bool promising = suitable && pivot_row(matrix, few, 3 * largest) >= 0 &&
                         pivot_row(matrix, sample, largest) >= 0;
  const std::int64_t pivot = promising ? pivot_row(matrix, many, largest) : -1;
  RankOne parts;
  if (pivot < 0 || !split(matrix, pivot, parts, interrupt) ||
      (m < n && !drop_columns_part(m, parts)) || (m > n && !merge_rows_part(n, parts))) {
    return false;
  }
  const std::vector<std::int64_t> rows = ascending(parts.x);
  const std::vector<std::int64_t> cols = ascending(parts.y);
  double rise = 0;
  for (std::size_t k = 0; k < cols.size(); ++k) {
    const std::int64_t j = cols[k];
    if (k > 0) {
      rise += (parts.x[rows[k - 1]] + parts.x[rows[k]]) / 2 * (parts.y[j] - parts.y[cols[k - 1]]);
    }
    price[j] = matrix.grid(parts.c[j] + rise);
  }
  return true;
}

template bool rank_one_prices(const RowMatrix<float> &, std::vector<double> &, Interrupt &);
template bool rank_one_prices(const RowMatrix<double> &, std::vector<double> &, Interrupt &);

} // namespace lmc
