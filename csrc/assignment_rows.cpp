#include "assignment_rows.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "simd.hpp"

namespace lmc {
namespace {

template <class T>
LMC_INLINE RowSummary<T> summarise_row_impl(const T *row, T sign, std::int64_t count) {
  using V = Vector<T>;
  using P = Places<T>;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  // As integers, magnitudes are in the same order; one less puts zero above all others.
  constexpr Integer<T> magnitude = std::numeric_limits<Integer<T>>::max();
  constexpr auto infinite = std::bit_cast<Integer<T>>(infinity);
  constexpr std::int64_t block = 32 * width<T>;
  const std::int64_t whole = count / width<T> * width<T>;
  LaneTopTwo<T> top{V{} - infinity, V{} - infinity, P{} - 1};
  V least = V{} + infinity;
  P smallest = P{} + (infinite - 1);
  P largest{};
  for (std::int64_t begin = 0; begin < whole; begin += block) {
    const std::int64_t end = std::min(whole, begin + block);
    V most = V{} - infinity;
    for (std::int64_t j = begin; j < end; j += width<T>) {
      const V x = load(row + j) * sign;
      most = larger(x, most);
      least = smaller(x, least);
      const P size = reinterpret_cast<P>(x) & magnitude;
      largest = size > largest ? size : largest;
      const P before = (size - 1) & magnitude;
      smallest = before < smallest ? before : smallest;
    }
    top.see(most, lane_numbers(T{}) + static_cast<Integer<T>>(begin));
  }
  top.gather();
  RowSummary<T> result{
      top.first[0], top.second[0],
      top.place[0], folded(least, [](const V &a, const V &b) { return smaller(a, b); }),
      infinity,     true};
  Integer<T> bits = folded(smallest, [](const P &a, const P &b) { return a < b ? a : b; });
  Integer<T> most_bits = folded(largest, [](const P &a, const P &b) { return a > b ? a : b; });
  const auto see = [&](std::int64_t j) LMC_INLINED {
    const T x = row[j] * sign;
    result.second = std::max(result.second, std::min(result.best, x));
    result.place = x > result.best ? j : result.place;
    result.best = std::max(result.best, x);
  };
  // The best is in this lane of its block, and perhaps the second best.
  if (result.place >= 0) {
    const std::int64_t first = result.place;
    result.best = row[first] * sign;
    const std::int64_t end = std::min(whole, first / block * block + block);
    for (std::int64_t j = first + width<T>; j < end; j += width<T>) {
      see(j);
    }
  }
  for (std::int64_t j = whole; j < count; ++j) {
    see(j);
    result.least = std::min(result.least, row[j] * sign);
    const Integer<T> size = std::bit_cast<Integer<T>>(row[j]) & magnitude;
    bits = std::min<Integer<T>>(bits, (size - 1) & magnitude);
    most_bits = std::max(most_bits, size);
  }
  result.smallest = std::bit_cast<T>(static_cast<Integer<T>>(bits + 1));
  result.finite = most_bits < infinite;
  return result;
}

template <class T>
LMC_INLINE std::int64_t mark_places_impl(const T *row, T sign, T value, std::int64_t count,
                                         std::uint64_t *bits) {
  using P = Places<T>;
  constexpr std::int64_t block = width<T> * 8 * sizeof(T); // a bit of every lane for each vector
  const std::int64_t whole = count / width<T> * width<T>;
  std::int64_t found = 0;
  const auto mark = [&](std::int64_t j) LMC_INLINED {
    bits[j / 64] |= std::uint64_t{1} << (j % 64);
    ++found;
  };
  for (std::int64_t begin = 0; begin < whole; begin += block) {
    const std::int64_t end = std::min(whole, begin + block);
    P hits{};
    P bit = P{} + 1;
    for (std::int64_t j = begin; j < end; j += width<T>) {
      hits |= (load(row + j) * sign == value) & bit;
      bit <<= 1;
    }
    if (!any_lane(hits)) {
      continue;
    }
    for (std::int64_t lane = 0; lane < width<T>; ++lane) {
      for (auto rest = static_cast<std::make_unsigned_t<Integer<T>>>(hits[lane]); rest;
           rest &= rest - 1) {
        mark(begin + std::countr_zero(rest) * width<T> + lane);
      }
    }
  }
  for (std::int64_t j = whole; j < count; ++j) {
    if (row[j] * sign == value) {
      mark(j);
    }
  }
  return found;
}

// Adds the entries from j on, too few for a vector, to what lane 0 has seen.
template <class T>
LMC_INLINE TopTwo<T> seen_to_end(const LaneTopTwo<T> &lanes, const T *row, T sign, const T *price,
                                 std::int64_t j, std::int64_t count) {
  TopTwo<T> top{lanes.first[0], lanes.second[0], lanes.place[0]};
  for (; j < count; ++j) {
    const T x = row[j] * sign - price[j];
    top.second = std::max(top.second, std::min(top.best, x));
    top.index = x > top.best ? j : top.index;
    top.best = std::max(top.best, x);
  }
  return top;
}

template <class T>
LMC_INLINE TopTwo<T> top_two_impl(const T *row, T sign, const T *price, std::int64_t count) {
  using V = Vector<T>;
  using P = Places<T>;
  constexpr T low = -std::numeric_limits<T>::infinity();
  // Two chains, so that one instruction need not wait for the other.
  const LaneTopTwo<T> nothing{V{} + low, V{} + low, P{} - 1};
  LaneTopTwo<T> chains[2] = {nothing, nothing};
  P place = lane_numbers(T{});
  std::int64_t j = 0;
  for (; j + 2 * width<T> <= count; j += 2 * width<T>) {
    for (int k = 0; k < 2; ++k) {
      const std::int64_t at = j + k * width<T>;
      chains[k].see(load(row + at) * sign - load(price + at), place);
      place += static_cast<std::int32_t>(width<T>);
    }
  }
  chains[0].merge(chains[1].first, chains[1].second, chains[1].place);
  chains[0].gather();
  return seen_to_end(chains[0], row, sign, price, j, count);
}

template <class T>
LMC_INLINE std::array<TopTwo<T>, 2> top_two_impl(const std::array<const T *, 2> &rows, T sign,
                                                 const T *price, std::int64_t count) {
  using V = Vector<T>;
  using P = Places<T>;
  constexpr T low = -std::numeric_limits<T>::infinity();
  const T *one = rows[0];
  const T *other = rows[1];
  LaneTopTwo<T> top_of_one{V{} + low, V{} + low, P{} - 1};
  LaneTopTwo<T> top_of_other = top_of_one;
  P place = lane_numbers(T{});
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V prices = load(price + j);
    top_of_one.see(load(one + j) * sign - prices, place);
    top_of_other.see(load(other + j) * sign - prices, place);
    place += static_cast<std::int32_t>(width<T>);
  }
  top_of_one.gather();
  top_of_other.gather();
  return {seen_to_end(top_of_one, one, sign, price, j, count),
          seen_to_end(top_of_other, other, sign, price, j, count)};
}

template <class T>
LMC_INLINE void raise_columns_impl(const T *row, T sign, T offset, T *best_of, std::int64_t count) {
  using V = Vector<T>;
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V x = load(row + j) * sign - offset;
    const V old = load(best_of + j);
    store(best_of + j) = x > old ? x : old;
  }
  for (; j < count; ++j) {
    const T x = row[j] * sign - offset;
    best_of[j] = x > best_of[j] ? x : best_of[j];
  }
}

template <class T>
LMC_INLINE std::int64_t group_maxima_impl(const T *row, T sign, const T *price, std::int64_t count,
                                          std::int64_t depth, T *maxima) {
  using V = Vector<T>;
  constexpr T low = -std::numeric_limits<T>::infinity();
  constexpr std::int64_t parts = group_lanes / width<T>;
  std::int64_t groups = 0;
  std::int64_t j = 0;
  const std::int64_t whole = count / group_lanes * group_lanes;
  while (j < whole) {
    const std::int64_t end = std::min(whole, j + depth * group_lanes);
    V most[parts];
    for (std::int64_t k = 0; k < parts; ++k) {
      most[k] = V{} + low;
    }
    for (; j < end; j += group_lanes) {
      for (std::int64_t k = 0; k < parts; ++k) {
        const V x = load(row + j + k * width<T>) * sign - load(price + j + k * width<T>);
        most[k] = x > most[k] ? x : most[k];
      }
    }
    for (std::int64_t k = 0; k < parts; ++k) {
      store(maxima + groups + k * width<T>) = most[k];
    }
    groups += group_lanes;
  }
  if (j < count) {
    for (std::int64_t k = 0; k < group_lanes; ++k) {
      maxima[groups + k] = j + k < count ? row[j + k] * sign - price[j + k] : low;
    }
    groups += group_lanes;
  }
  return groups;
}

template <class T>
LMC_INLINE std::int64_t count_reaching(const T *values, std::int64_t count, T threshold) {
  using V = Vector<T>;
  V hits = V{};
  for (std::int64_t k = 0; k < count; k += width<T>) {
    hits += load(values + k) >= threshold ? V{} + T{1} : V{};
  }
  T total = 0;
  for (std::int64_t k = 0; k < width<T>; ++k) {
    total += hits[k];
  }
  return static_cast<std::int64_t>(total);
}

template <class T>
LMC_INLINE T upper_threshold_impl(const T *values, std::int64_t count, std::int64_t wanted,
                                  T &spread) {
  using V = Vector<T>;
  V most = load(values);
  V least = most;
  for (std::int64_t k = width<T>; k < count; k += width<T>) {
    most = larger(load(values + k), most);
    least = smaller(load(values + k), least);
  }
  T best = most[0];
  T bottom = least[0];
  for (std::int64_t k = 1; k < width<T>; ++k) {
    best = std::max(best, most[k]);
    bottom = std::min(bottom, least[k]);
  }
  // Groups of nothing but constant columns are at -infinity, which has no middle.
  bottom = std::max(bottom, std::numeric_limits<T>::lowest());
  T high = best;
  T below = spread;
  T low = std::max(best - below, bottom);
  std::int64_t reached = count_reaching(values, count, low);
  for (int step = 0; step < 64 && reached < wanted && low > bottom; ++step) {
    high = low;
    below *= 2;
    low = std::max(best - below, bottom);
    reached = count_reaching(values, count, low);
  }
  if (reached < wanted) {
    return bottom;
  }
  for (int step = 0; step < 10 && reached > wanted + wanted / 3; ++step) {
    const T middle = low + (high - low) / 2;
    const std::int64_t count_there = count_reaching(values, count, middle);
    if (count_there >= wanted) {
      low = middle;
      reached = count_there;
    } else {
      high = middle;
    }
  }
  if (best - low > 0) {
    spread = best - low;
  }
  return low;
}

template <class T>
LMC_INLINE std::int64_t reaching_impl(const T *values, std::int64_t count, T threshold,
                                      std::int32_t *places) {
  // Writing always and counting on success leaves no branch to mispredict.
  std::int64_t found = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    places[found] = static_cast<std::int32_t>(k);
    found += values[k] >= threshold;
  }
  return found;
}

template <class T>
LMC_INLINE std::int64_t members_reaching_impl(const T *row, T sign, const T *price,
                                              std::int64_t count, std::int64_t depth,
                                              const std::int32_t *groups, std::int64_t group_count,
                                              T threshold, std::int32_t *places) {
  const std::int64_t block = group_lanes * depth;
  const std::int64_t whole = count / group_lanes * group_lanes;
  std::int64_t found = 0;
  for (std::int64_t g = 0; g < group_count; ++g) {
    const std::int64_t begin = std::min(groups[g] / group_lanes * block, whole);
    const std::int64_t end = begin < whole ? std::min(begin + block, whole) : count;
    for (std::int64_t j = begin + groups[g] % group_lanes; j < end; j += group_lanes) {
      places[found] = static_cast<std::int32_t>(j);
      found += row[j] * sign - price[j] >= threshold;
    }
  }
  return found;
}

template <class T>
LMC_INLINE Moved moved_entries_impl(const T *row, std::int64_t count, const Grid &grid) {
  const Grid local = grid;
  Longs moved{};
  Doubles by{};
  std::int64_t j = 0;
  for (; j + width<double> <= count; j += width<double>) {
    const Doubles x = widened(row + j) * local.scale * local.scale_rest;
    const Doubles shift = x - ((x + local.magic) - local.magic);
    const Doubles size = shift < 0 ? -shift : shift;
    // The difference of two infinities, a forbidden pair, is NaN and counts as not moved.
    moved -= size > 0;
    by = larger(size, by);
  }
  Moved result{moved[0] + moved[1] + moved[2] + moved[3], std::max({by[0], by[1], by[2], by[3]})};
  for (; j < count; ++j) {
    const double x = local.exact(static_cast<double>(row[j]));
    const double size = std::abs(x - ((x + local.magic) - local.magic));
    result.count += size > 0;
    result.by = size > result.by ? size : result.by;
  }
  return result;
}

} // namespace

LMC_CLONES RowSummary<float> summarise_row(const float *row, float sign, std::int64_t count) {
  return summarise_row_impl(row, sign, count);
}
LMC_CLONES RowSummary<double> summarise_row(const double *row, double sign, std::int64_t count) {
  return summarise_row_impl(row, sign, count);
}
LMC_CLONES std::int64_t mark_places(const float *row, float sign, float value, std::int64_t count,
                                    std::uint64_t *bits) {
  return mark_places_impl(row, sign, value, count, bits);
}
LMC_CLONES std::int64_t mark_places(const double *row, double sign, double value,
                                    std::int64_t count, std::uint64_t *bits) {
  return mark_places_impl(row, sign, value, count, bits);
}
LMC_CLONES TopTwo<float> top_two(const float *row, float sign, const float *price,
                                 std::int64_t count) {
  return top_two_impl(row, sign, price, count);
}
LMC_CLONES TopTwo<double> top_two(const double *row, double sign, const double *price,
                                  std::int64_t count) {
  return top_two_impl(row, sign, price, count);
}
LMC_CLONES std::array<TopTwo<float>, 2> top_two(const std::array<const float *, 2> &rows,
                                                float sign, const float *price,
                                                std::int64_t count) {
  return top_two_impl(rows, sign, price, count);
}
LMC_CLONES std::array<TopTwo<double>, 2> top_two(const std::array<const double *, 2> &rows,
                                                 double sign, const double *price,
                                                 std::int64_t count) {
  return top_two_impl(rows, sign, price, count);
}
LMC_CLONES void raise_columns(const float *row, float sign, float offset, float *best_of,
                              std::int64_t count) {
  raise_columns_impl(row, sign, offset, best_of, count);
}
LMC_CLONES void raise_columns(const double *row, double sign, double offset, double *best_of,
                              std::int64_t count) {
  raise_columns_impl(row, sign, offset, best_of, count);
}
LMC_CLONES std::int64_t group_maxima(const float *row, float sign, const float *price,
                                     std::int64_t count, std::int64_t depth, float *maxima) {
  return group_maxima_impl(row, sign, price, count, depth, maxima);
}
LMC_CLONES std::int64_t group_maxima(const double *row, double sign, const double *price,
                                     std::int64_t count, std::int64_t depth, double *maxima) {
  return group_maxima_impl(row, sign, price, count, depth, maxima);
}
LMC_CLONES std::int64_t reaching(const float *values, std::int64_t count, float threshold,
                                 std::int32_t *places) {
  return reaching_impl(values, count, threshold, places);
}
LMC_CLONES std::int64_t reaching(const double *values, std::int64_t count, double threshold,
                                 std::int32_t *places) {
  return reaching_impl(values, count, threshold, places);
}
LMC_CLONES std::int64_t members_reaching(const float *row, float sign, const float *price,
                                         std::int64_t count, std::int64_t depth,
                                         const std::int32_t *groups, std::int64_t group_count,
                                         float threshold, std::int32_t *places) {
  return members_reaching_impl(row, sign, price, count, depth, groups, group_count, threshold,
                               places);
}
LMC_CLONES std::int64_t members_reaching(const double *row, double sign, const double *price,
                                         std::int64_t count, std::int64_t depth,
                                         const std::int32_t *groups, std::int64_t group_count,
                                         double threshold, std::int32_t *places) {
  return members_reaching_impl(row, sign, price, count, depth, groups, group_count, threshold,
                               places);
}
LMC_CLONES float upper_threshold(const float *values, std::int64_t count, std::int64_t wanted,
                                 float &spread) {
  return upper_threshold_impl(values, count, wanted, spread);
}
LMC_CLONES double upper_threshold(const double *values, std::int64_t count, std::int64_t wanted,
                                  double &spread) {
  return upper_threshold_impl(values, count, wanted, spread);
}

LMC_CLONES Moved moved_entries(const float *row, std::int64_t count, const Grid &grid) {
  return moved_entries_impl(row, count, grid);
}
LMC_CLONES Moved moved_entries(const double *row, std::int64_t count, const Grid &grid) {
  return moved_entries_impl(row, count, grid);
}

} // namespace lmc
