#include "assignment_dense_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "simd.hpp"

namespace lmc {
namespace {

template <class T> LMC_INLINE Vector<T> magnitude(const Vector<T> &x) {
  constexpr Integer<T> all_but_sign = std::numeric_limits<Integer<T>>::max();
  return reinterpret_cast<Vector<T>>(reinterpret_cast<Places<T>>(x) & all_but_sign);
}

// Raises the bounds of a row's columns to a_j - best.
template <class T>
LMC_INLINE void raise_bounds(const T *row, T sign, std::int64_t count, T best, Integer<T> number,
                             const RowTotals<T> &totals) {
  using V = Vector<T>;
  using P = Places<T>;
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V x = load(row + j) * sign - best;
    const V old = load(totals.bound + j);
    P &holder = *reinterpret_cast<P *>(totals.holder + j);
    holder = x > old ? P{} + number : holder;
    store(totals.bound + j) = larger(x, old);
  }
  for (; j < count; ++j) {
    const T x = row[j] * sign - best;
    totals.holder[j] = x > totals.bound[j] ? number : totals.holder[j];
    totals.bound[j] = std::max(totals.bound[j], x);
  }
}

template <class T>
LMC_INLINE void survey_block_impl(const RowMatrix<T> &matrix, std::int64_t begin, std::int64_t end,
                                  RowTotals<T> &totals) {
  using V = Vector<T>;
  constexpr T low = -std::numeric_limits<T>::infinity();
  const RowTotals<T> out = totals;
  const T sign = matrix.sign;
  V poison{};
  T poison_rest = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const T *row = matrix.row(i);
    V best = V{} + low;
    V least = V{} - low;
    V smallest = least;
    std::int64_t j = 0;
    for (; j + width<T> <= matrix.cols; j += width<T>) {
      const V x = load(row + j) * sign;
      best = larger(x, best);
      least = smaller(x, least);
      const V size = magnitude<T>(x);
      smallest = smaller(size > 0 ? size : V{} - low, smallest);
      poison += x * T{0};
    }
    T most = folded(best, [](const V &a, const V &b) LMC_INLINED { return larger(a, b); });
    T bottom = folded(least, [](const V &a, const V &b) LMC_INLINED { return smaller(a, b); });
    T tiny = folded(smallest, [](const V &a, const V &b) LMC_INLINED { return smaller(a, b); });
    for (; j < matrix.cols; ++j) {
      const T x = row[j] * sign;
      most = std::max(most, x);
      bottom = std::min(bottom, x);
      tiny = x != 0 ? std::min(tiny, std::abs(x)) : tiny;
      poison_rest += x * T{0};
    }
    out.best[i] = most;
    out.least[i] = bottom;
    out.smallest[i] = tiny;
    if (most > bottom && most > low) {
      raise_bounds(row, sign, matrix.cols, most, static_cast<Integer<T>>(i), out);
    }
  }
  totals.poison +=
      poison_rest + folded(poison, [](const V &a, const V &b) LMC_INLINED { return a + b; });
}

// Writes the places but `own` where sign * row_j - price_j reaches the threshold, in any order, and
// returns their number; -1 if that is above `most`.
LMC_INLINE std::int64_t others_reaching(const float *row, float sign, const float *price,
                                        std::int64_t count, float threshold, std::int64_t own,
                                        std::int64_t most, std::int32_t *places) {
  constexpr std::int64_t lanes = width<float>;
  constexpr std::int64_t block = 32 * lanes; // a bit of every lane for each vector
  const std::int64_t whole = count / lanes * lanes;
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < whole; begin += block) {
    const std::int64_t end = std::min(whole, begin + block);
    Ints hits{};
    Ints bit = Ints{} + 1;
    for (std::int64_t j = begin; j < end; j += lanes) {
      hits |= (load(row + j) * sign - load(price + j) >= threshold) & bit;
      bit <<= 1;
    }
    const auto bit_of_own = static_cast<unsigned>((own - begin) / lanes);
    if (own >= begin && bit_of_own < 32) {
      const Ints lane = lane_numbers(0.0F) == static_cast<std::int32_t>(own % lanes);
      hits &= ~(lane & static_cast<std::int32_t>(1U << bit_of_own));
    }
    if (!any_lane(hits)) {
      continue;
    }
    const auto pairs = reinterpret_cast<Longs>(hits);
    for (int k = 0; k < width<double>; ++k) {
      auto rest = static_cast<std::uint64_t>(pairs[k]);
      if (found + std::popcount(rest) > most) {
        return -1;
      }
      for (; rest; rest &= rest - 1) {
        const int at = std::countr_zero(rest);
        places[found++] = static_cast<std::int32_t>(begin + at % 32 * lanes + 2 * k + at / 32);
      }
    }
  }
  for (std::int64_t j = whole; j < count; ++j) {
    if (j != own && row[j] * sign - price[j] >= threshold) {
      if (found == most) {
        return -1;
      }
      places[found++] = static_cast<std::int32_t>(j);
    }
  }
  return found;
}

LMC_INLINE double check_rows_impl(const RowMatrix<float> &matrix, std::int64_t begin,
                                  std::int64_t end, const PricedMatching &matching,
                                  const RoundedPrices &rounded, double *best,
                                  std::uint64_t *tight) {
  double excess = 0;
  // Of more that could be best a look at the whole row is cheaper.
  std::array<std::int32_t, 128> places;
  const std::int64_t most = std::min(std::ssize(places), matrix.cols / 16);
  const std::int64_t words = (matrix.cols + 63) / 64;
  const auto profit = [&](std::int64_t i, std::int64_t j)
                          LMC_INLINED { return matrix.exact(i, j) - matching.price[j]; };
  for (std::int64_t i = begin; i < end; ++i) {
    const float *row = matrix.row(i);
    const std::int64_t own = matching.col_of[i];
    std::uint64_t *bits = tight + i * words;
    const double level = own < 0 ? matching.row_floor : profit(i, own);
    const std::int64_t found = others_reaching(
        row, matrix.sign, rounded.price, matrix.cols,
        static_cast<float>(level - rounded.error) * rounded.unit, own, most, places.data());
    if (found < 0) {
      best[i] = std::max(level, check_row(matrix, row, matching.price, level, bits).best);
      excess += best[i] - level;
      continue;
    }
    if (own >= 0) {
      bits[own / 64] |= std::uint64_t{1} << (own % 64);
    }
    best[i] = level;
    for (std::int64_t k = 0; k < found; ++k) {
      const std::int64_t j = places[static_cast<std::size_t>(k)];
      const double other = profit(i, j);
      best[i] = std::max(best[i], other);
      bits[j / 64] |= std::uint64_t{other >= level} << (j % 64);
    }
    excess += best[i] - level;
  }
  return excess;
}

template <class T>
LMC_INLINE double round_prices_impl(const double *price, T unit, T *rounded, std::int64_t count) {
  Doubles largest{};
  std::int64_t j = 0;
  for (; j + width<double> <= count; j += width<double>) {
    const Doubles x = load(price + j);
    for (std::int64_t k = 0; k < width<double>; ++k) {
      rounded[j + k] = static_cast<T>(x[k]) * unit;
    }
    largest = larger(magnitude<double>(x), largest);
  }
  double most =
      folded(largest, [](const Doubles &a, const Doubles &b) LMC_INLINED { return larger(a, b); });
  for (; j < count; ++j) {
    rounded[j] = static_cast<T>(price[j]) * unit;
    most = std::max(most, std::abs(price[j]));
  }
  return most;
}

} // namespace

LMC_CLONES void survey_block(const RowMatrix<float> &matrix, std::int64_t begin, std::int64_t end,
                             RowTotals<float> &totals) {
  survey_block_impl(matrix, begin, end, totals);
}
LMC_CLONES void survey_block(const RowMatrix<double> &matrix, std::int64_t begin, std::int64_t end,
                             RowTotals<double> &totals) {
  survey_block_impl(matrix, begin, end, totals);
}

LMC_CLONES double check_rows(const RowMatrix<float> &matrix, std::int64_t begin, std::int64_t end,
                             const PricedMatching &matching, const RoundedPrices &rounded,
                             double *best, std::uint64_t *tight) {
  return check_rows_impl(matrix, begin, end, matching, rounded, best, tight);
}

LMC_CLONES double round_prices(const double *price, float unit, float *rounded,
                               std::int64_t count) {
  return round_prices_impl(price, unit, rounded, count);
}
LMC_CLONES double round_prices(const double *price, double unit, double *rounded,
                               std::int64_t count) {
  return round_prices_impl(price, unit, rounded, count);
}

LMC_CLONES void put_price(float *price, std::int64_t at, float value) { put(price, at, value); }
LMC_CLONES void put_price(double *price, std::int64_t at, double value) { put(price, at, value); }

} // namespace lmc
