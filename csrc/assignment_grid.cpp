#include "assignment_grid.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "assignment_solver.hpp"

namespace lmc {
namespace {

template <class T>
void survey_line(const T *line, std::int64_t count, bool maximize, Survey &result,
                 std::int64_t &bad) {
  // Zero times a finite number is zero: one sum finds out whether a closer look is needed.
  T largest = 0;
  T poison = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    const T size = std::abs(line[j]);
    largest = size > largest ? size : largest;
    poison += line[j] * T{0};
  }
  if (poison == T{0}) {
    result.largest = std::max(result.largest, static_cast<double>(largest));
    return;
  }
  for (std::int64_t j = 0; j < count; ++j) {
    if (std::isfinite(line[j])) {
      result.largest = std::max(result.largest, static_cast<double>(std::abs(line[j])));
    } else if (std::isinf(line[j]) && (line[j] > 0) != maximize) {
      result.forbidden = true;
    } else if (bad < 0) {
      bad = j;
    }
  }
}

template <class T>
Survey survey_typed(const CostMatrix &cost, bool maximize, Interrupt &interrupt) {
  Survey result;
  const bool by_row = cost.col_stride == 1;
  const std::int64_t lines = by_row ? cost.rows : cost.cols;
  const std::int64_t count = by_row ? cost.cols : cost.rows;
  const std::int64_t step = by_row ? cost.row_stride : cost.col_stride;
  for (std::int64_t i = 0; i < lines && !interrupt(count); ++i) {
    std::int64_t bad = -1;
    survey_line(static_cast<const T *>(cost.data) + i * step, count, maximize, result, bad);
    const std::int64_t row = by_row ? i : bad;
    const std::int64_t col = by_row ? bad : i;
    const bool earlier = result.bad_row < 0 || row < result.bad_row ||
                         (row == result.bad_row && col < result.bad_col);
    if (bad >= 0 && earlier) {
      result.bad_row = row;
      result.bad_col = col;
    }
  }
  return result;
}

} // namespace

Grid Grid::covering(double largest, int bits) {
  Grid grid;
  grid.bits = bits;
  if (largest >= std::numeric_limits<double>::min()) {
    grid.exponent = static_cast<int>(std::bit_cast<std::uint64_t>(largest) >> 52) - 1022;
  } else if (largest > 0) {
    std::frexp(largest, &grid.exponent);
  }
  // 2^1074 is not a double: the smallest denormals are scaled up in two steps.
  const int first = std::clamp(-grid.exponent, -1000, 1000);
  grid.scale = power_of_two(first);
  grid.scale_rest = power_of_two(-grid.exponent - first);
  grid.magic = 1.5 * power_of_two(52 - bits);
  return grid;
}

double Grid::difference_error(double largest_price, double precision) const {
  const double step = power_of_two(-bits);
  return (std::ceil((1 + largest_price) * 4 * precision / step) + 1) * step;
}

double Grid::restore(double x) const {
  return exponent < 1024 ? x * power_of_two(exponent) : std::ldexp(x, exponent);
}

Survey survey(const CostMatrix &cost, bool maximize, Interrupt &interrupt) {
  return cost.float64 ? survey_typed<double>(cost, maximize, interrupt)
                      : survey_typed<float>(cost, maximize, interrupt);
}

} // namespace lmc
