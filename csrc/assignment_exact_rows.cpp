#include "assignment_exact_rows.hpp"

#include <algorithm>
#include <limits>

#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// How entries come to the grid: with nothing to round, one product does it.
template <bool rounds> struct Scaling {
  template <class T>
  explicit Scaling(const RowMatrix<T> &matrix)
      : scale(static_cast<double>(matrix.sign) * matrix.grid.scale), rest(matrix.grid.scale_rest),
        magic(matrix.grid.magic) {}

  LMC_INLINE Doubles operator()(const Doubles &x) const {
    if constexpr (rounds) {
      return (x * scale * rest + magic) - magic;
    } else {
      return x * scale;
    }
  }

  double scale, rest, magic;
};

// Four entries from `row` on, -infinity for those beyond `count`.
template <class Scale, class T>
LMC_INLINE Doubles first_few(const Scale &scale, const T *row, std::int64_t count) {
  Doubles x{};
  for (std::int64_t k = 0; k < width<double>; ++k) {
    x[k] = k < count ? static_cast<double>(row[k]) : 0.0;
  }
  x = scale(x);
  for (std::int64_t k = count; k < width<double>; ++k) {
    x[k] = -infinity;
  }
  return x;
}

// Calls body(chain, j, entries j to j + 3) from left to right, alternating between the chains 0 and
// 1.
template <class Scale, class T, class Body>
LMC_INLINE void for_entries(const Scale &scale, const T *row, std::int64_t count,
                            const Body &body) {
  std::int64_t j = 0;
  for (; j + exact_lanes <= count; j += exact_lanes) {
    body(0, j, scale(widened(row + j)));
    body(1, j + width<double>, scale(widened(row + j + width<double>)));
  }
  if (j < count) {
    body(0, j, first_few(scale, row + j, count - j));
    const std::int64_t rest = std::max<std::int64_t>(count - j - width<double>, 0);
    body(1, j + width<double>, first_few(scale, row + j + width<double>, rest));
  }
}

// The body of every kernel, for matrices that need rounding and others.
template <class T, class Kernel>
LMC_INLINE auto on_grid(const RowMatrix<T> &matrix, const Kernel &kernel) {
  return matrix.rounds ? kernel(Scaling<true>(matrix)) : kernel(Scaling<false>(matrix));
}

template <class T>
LMC_INLINE TopTwo<double> top_two_impl(const RowMatrix<T> &matrix, const T *row,
                                       const double *price) {
  return on_grid(matrix, [&](const auto &scale) LMC_INLINED {
    const LaneTopTwo<double> nothing{Doubles{} - infinity, Doubles{} - infinity, Longs{} - 1};
    LaneTopTwo<double> chains[2] = {nothing, nothing};
    Longs place = lane_numbers(0.0);
    for_entries(scale, row, matrix.cols,
                [&](int chain, std::int64_t j, const Doubles &a) LMC_INLINED {
                  chains[chain].see(a - load(price + j), place);
                  place += width<double>;
                });
    chains[0].merge(chains[1].first, chains[1].second, chains[1].place);
    chains[0].gather();
    return TopTwo<double>{chains[0].first[0], chains[0].second[0], chains[0].place[0]};
  });
}

template <class T>
LMC_INLINE Nearest relax_impl(const RowMatrix<T> &matrix, const T *row, double shift,
                              std::int64_t closed, double *price, double *yield) {
  if (closed >= 0) {
    put(yield, closed, -infinity);
    put(price, closed, infinity);
  }
  return on_grid(matrix, [&](const auto &scale) LMC_INLINED {
    const LaneTop<double> nothing{Doubles{} - infinity, Longs{} - 1};
    LaneTop<double> chains[2] = {nothing, nothing};
    Longs place = lane_numbers(0.0);
    for_entries(scale, row, matrix.cols,
                [&](int chain, std::int64_t j, const Doubles &a) LMC_INLINED {
                  const Doubles now = larger(a + shift - load(price + j), load(yield + j));
                  store(yield + j) = now;
                  chains[chain].see(now, place);
                  place += width<double>;
                });
    chains[0].see(chains[1].first, chains[1].place);
    chains[0].gather();
    return Nearest{chains[0].first[0], chains[0].place[0]};
  });
}

template <class T>
LMC_INLINE RowCheck check_row_impl(const RowMatrix<T> &matrix, const T *row, const double *price,
                                   double level, std::uint64_t *tight) {
  return on_grid(matrix, [&](const auto &scale) LMC_INLINED {
    constexpr std::int64_t word = 64;
    const LaneTopTwo<double> nothing{Doubles{} - infinity, Doubles{} - infinity, Longs{}};
    LaneTopTwo<double> chains[2] = {nothing, nothing};
    for (std::int64_t begin = 0; begin < matrix.cols; begin += word) {
      Longs bits{};
      Longs bit{1, 2, 4, 8};
      for_entries(scale, row + begin, std::min(matrix.cols - begin, word),
                  [&](int chain, std::int64_t j, const Doubles &a) LMC_INLINED {
                    const Doubles x = a - load(price + begin + j);
                    LaneTopTwo<double> &top = chains[chain];
                    top.second = larger(smaller(x, top.first), top.second);
                    top.first = larger(x, top.first);
                    bits |= (x >= level) & bit;
                    bit <<= width<double>;
                  });
      *tight++ = static_cast<std::uint64_t>(bits[0] | bits[1] | bits[2] | bits[3]);
    }
    chains[0].merge(chains[1].first, chains[1].second, chains[1].place);
    chains[0].gather();
    return RowCheck{chains[0].first[0], chains[0].second[0]};
  });
}

template <class T>
LMC_INLINE double check_short_rows_impl(const RowMatrix<T> &matrix, std::int64_t begin,
                                        std::int64_t end, const PricedMatching &matching,
                                        double *best, std::uint64_t *tight) {
  return on_grid(matrix, [&](const auto &scale) LMC_INLINED {
    double excess = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const T *row = matrix.row(i);
      const std::int64_t own = matching.col_of[i];
      const double level =
          own < 0 ? matching.row_floor : matrix.exact(i, own) - matching.price[own];
      Doubles most[2] = {Doubles{} + level, Doubles{} + level};
      Longs bits{};
      Longs bit{1, 2, 4, 8};
      for_entries(scale, row, matrix.cols,
                  [&](int chain, std::int64_t j, const Doubles &a) LMC_INLINED {
                    const Doubles x = a - load(matching.price + j);
                    most[chain] = larger(x, most[chain]);
                    bits |= (x >= level) & bit;
                    bit <<= width<double>;
                  });
      tight[i] = static_cast<std::uint64_t>(bits[0] | bits[1] | bits[2] | bits[3]);
      best[i] = folded(larger(most[0], most[1]),
                       [](const Doubles &a, const Doubles &b) LMC_INLINED { return larger(a, b); });
      excess += best[i] - level;
    }
    return excess;
  });
}

} // namespace

LMC_CLONES TopTwo<double> top_two_exact(const RowMatrix<float> &matrix, const float *row,
                                        const double *price) {
  return top_two_impl(matrix, row, price);
}
LMC_CLONES TopTwo<double> top_two_exact(const RowMatrix<double> &matrix, const double *row,
                                        const double *price) {
  return top_two_impl(matrix, row, price);
}
LMC_CLONES Nearest relax(const RowMatrix<float> &matrix, const float *row, double shift,
                         std::int64_t closed, double *price, double *yield) {
  return relax_impl(matrix, row, shift, closed, price, yield);
}
LMC_CLONES Nearest relax(const RowMatrix<double> &matrix, const double *row, double shift,
                         std::int64_t closed, double *price, double *yield) {
  return relax_impl(matrix, row, shift, closed, price, yield);
}
LMC_CLONES double check_short_rows(const RowMatrix<float> &matrix, std::int64_t begin,
                                   std::int64_t end, const PricedMatching &matching, double *best,
                                   std::uint64_t *tight) {
  return check_short_rows_impl(matrix, begin, end, matching, best, tight);
}
LMC_CLONES double check_short_rows(const RowMatrix<double> &matrix, std::int64_t begin,
                                   std::int64_t end, const PricedMatching &matching, double *best,
                                   std::uint64_t *tight) {
  return check_short_rows_impl(matrix, begin, end, matching, best, tight);
}
LMC_CLONES RowCheck check_row(const RowMatrix<float> &matrix, const float *row, const double *price,
                              double level, std::uint64_t *tight) {
  return check_row_impl(matrix, row, price, level, tight);
}
LMC_CLONES RowCheck check_row(const RowMatrix<double> &matrix, const double *row,
                              const double *price, double level, std::uint64_t *tight) {
  return check_row_impl(matrix, row, price, level, tight);
}

} // namespace lmc
