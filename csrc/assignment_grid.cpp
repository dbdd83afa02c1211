#include "assignment_grid.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "assignment_solver.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

// The largest finite magnitude, and whether something is neither finite nor the infinity that
// forbids a pair. As integers, magnitudes are in the same order.
template <class T> struct LineSummary {
  T largest;
  bool bad;
};

template <class T>
LMC_INLINE LineSummary<T> summarise_line_impl(const T *line, std::int64_t count, T forbidden) {
  constexpr Integer<T> magnitude = std::numeric_limits<Integer<T>>::max();
  constexpr auto infinite = std::bit_cast<Integer<T>>(std::numeric_limits<T>::infinity());
  const auto allowed = std::bit_cast<Integer<T>>(forbidden);
  Integer<T> largest = 0;
  Integer<T> bad = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    const auto bits = std::bit_cast<Integer<T>>(line[j]);
    const Integer<T> size = bits & magnitude;
    const Integer<T> finite = size < infinite ? size : 0;
    largest = finite > largest ? finite : largest;
    // Without a branch, which would keep the loop from being vectorised.
    bad |= static_cast<Integer<T>>(size >= infinite) & static_cast<Integer<T>>(bits != allowed);
  }
  return {std::bit_cast<T>(largest), bad != 0};
}

LMC_CLONES LineSummary<float> summarise_line(const float *line, std::int64_t count,
                                             float forbidden) {
  return summarise_line_impl(line, count, forbidden);
}
LMC_CLONES LineSummary<double> summarise_line(const double *line, std::int64_t count,
                                              double forbidden) {
  return summarise_line_impl(line, count, forbidden);
}

template <class T>
Survey survey_typed(const CostMatrix &cost, bool maximize, Interrupt &interrupt) {
  const T forbidden = (maximize ? -1 : 1) * std::numeric_limits<T>::infinity();
  Survey result;
  const bool by_row = cost.col_stride == 1;
  const std::int64_t lines = by_row ? cost.rows : cost.cols;
  const std::int64_t count = by_row ? cost.cols : cost.rows;
  const std::int64_t step = by_row ? cost.row_stride : cost.col_stride;
  for (std::int64_t i = 0; i < lines && !interrupt(count); ++i) {
    const T *line = static_cast<const T *>(cost.data) + i * step;
    const LineSummary<T> summary = summarise_line(line, count, forbidden);
    result.largest = std::max(result.largest, static_cast<double>(summary.largest));
    if (!summary.bad) {
      continue;
    }
    const auto *at =
        std::find_if(line, line + count, [&](T x) { return !std::isfinite(x) && x != forbidden; });
    const std::int64_t bad = at - line;
    const std::int64_t row = by_row ? i : bad;
    const std::int64_t col = by_row ? bad : i;
    const bool earlier = result.bad_row < 0 || row < result.bad_row ||
                         (row == result.bad_row && col < result.bad_col);
    if (earlier) {
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
