#include "assignment_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "simd.hpp"

namespace lmc {
namespace {

// A trait and not std::conditional: template arguments lose their alignment attribute.
template <class T> struct VectorOf {
  using Type = Floats;
};
template <> struct VectorOf<double> {
  using Type = Doubles;
};
template <class T> using Vector = typename VectorOf<T>::Type;
template <class T> constexpr std::int64_t width = sizeof(Vector<T>) / sizeof(T);

template <class T> const Vector<T> &load(const T *at) {
  return *reinterpret_cast<const Vector<T> *>(at);
}
template <class T> Vector<T> &store(T *at) { return *reinterpret_cast<Vector<T> *>(at); }

template <class T>
[[gnu::always_inline]] inline RowSummary<T> reduce_row_impl(const T *row, T sign, T *best_of,
                                                            std::int64_t count) {
  using V = Vector<T>;
  constexpr T low = -std::numeric_limits<T>::infinity();
  V largest = V{};
  V best = V{} + low;
  V least = V{} - low;
  V poison = V{};
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V x = load(row + j) * sign;
    const V old = load(best_of + j);
    const V size = x < 0 ? -x : x;
    store(best_of + j) = x > old ? x : old;
    largest = size > largest ? size : largest;
    best = x > best ? x : best;
    least = x < least ? x : least;
    poison += x * T{0};
  }
  RowSummary<T> result{0, low, -low, 0};
  for (std::int64_t k = 0; k < width<T>; ++k) {
    result.largest = std::max(result.largest, largest[k]);
    result.best = std::max(result.best, best[k]);
    result.least = std::min(result.least, least[k]);
    result.poison += poison[k];
  }
  for (; j < count; ++j) {
    const T x = row[j] * sign;
    best_of[j] = x > best_of[j] ? x : best_of[j];
    result.largest = std::max(result.largest, std::abs(x));
    result.best = std::max(result.best, x);
    result.least = std::min(result.least, x);
    result.poison += x * T{0};
  }
  return result;
}

template <class T>
[[gnu::always_inline]] inline void lower_columns_impl(const T *row, T sign, T *worst_of,
                                                      std::int64_t count) {
  using V = Vector<T>;
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V x = load(row + j) * sign;
    const V old = load(worst_of + j);
    store(worst_of + j) = x < old ? x : old;
  }
  for (; j < count; ++j) {
    const T x = row[j] * sign;
    worst_of[j] = x < worst_of[j] ? x : worst_of[j];
  }
}

template <class T>
[[gnu::always_inline]] inline void raise_columns_impl(const T *row, T sign, T offset, T *best_of,
                                                      std::int64_t count) {
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
[[gnu::always_inline]] inline std::int64_t group_maxima_impl(const T *row, T sign, const T *price,
                                                             std::int64_t count, std::int64_t depth,
                                                             T *maxima) {
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
[[gnu::always_inline]] inline std::int64_t count_reaching(const T *values, std::int64_t count,
                                                          T threshold) {
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
[[gnu::always_inline]] inline T upper_threshold_impl(const T *values, std::int64_t count,
                                                     std::int64_t wanted, T range) {
  using V = Vector<T>;
  V most = load(values);
  V least = most;
  for (std::int64_t k = width<T>; k < count; k += width<T>) {
    const V x = load(values + k);
    most = x > most ? x : most;
    least = x < least ? x : least;
  }
  T high = most[0];
  T low = least[0];
  for (std::int64_t k = 1; k < width<T>; ++k) {
    high = std::max(high, most[k]);
    low = std::min(low, least[k]);
  }
  low = std::max(low, high - range);
  for (int step = 0; step < 12; ++step) {
    const T middle = low + (high - low) / 2;
    const std::int64_t reached = count_reaching(values, count, middle);
    if (reached < wanted) {
      high = middle;
    } else {
      low = middle;
      if (reached <= wanted + wanted / 4) {
        break;
      }
    }
  }
  return low;
}

template <class T>
[[gnu::always_inline]] inline T second_largest_impl(const T *values, std::int64_t count) {
  using V = Vector<T>;
  constexpr T none = -std::numeric_limits<T>::infinity();
  V first = V{} + none;
  V next = first;
  for (std::int64_t k = 0; k < count; k += width<T>) {
    const V x = load(values + k);
    const V lower = x < first ? x : first;
    next = lower > next ? lower : next;
    first = x > first ? x : first;
  }
  T best = none;
  T second = none;
  for (std::int64_t k = 0; k < width<T>; ++k) {
    second = std::max({second, next[k], std::min(best, first[k])});
    best = std::max(best, first[k]);
  }
  return second;
}

template <class T>
[[gnu::always_inline]] inline T smallest_size_impl(const T *row, std::int64_t count) {
  using V = Vector<T>;
  const V most = V{} + std::numeric_limits<T>::infinity();
  V least = most;
  std::int64_t j = 0;
  for (; j + width<T> <= count; j += width<T>) {
    const V x = load(row + j);
    const V size = x < 0 ? -x : x;
    const V nonzero = size > 0 ? size : most;
    least = nonzero < least ? nonzero : least;
  }
  T result = most[0];
  for (std::int64_t k = 0; k < width<T>; ++k) {
    result = std::min(result, least[k]);
  }
  for (; j < count; ++j) {
    if (row[j] != 0) {
      result = std::min(result, std::abs(row[j]));
    }
  }
  return result;
}

} // namespace

LMC_CLONES RowSummary<float> reduce_row(const float *row, float sign, float *best_of,
                                        std::int64_t count) {
  return reduce_row_impl(row, sign, best_of, count);
}
LMC_CLONES RowSummary<double> reduce_row(const double *row, double sign, double *best_of,
                                         std::int64_t count) {
  return reduce_row_impl(row, sign, best_of, count);
}
LMC_CLONES void lower_columns(const float *row, float sign, float *worst_of, std::int64_t count) {
  lower_columns_impl(row, sign, worst_of, count);
}
LMC_CLONES void lower_columns(const double *row, double sign, double *worst_of,
                              std::int64_t count) {
  lower_columns_impl(row, sign, worst_of, count);
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
LMC_CLONES float upper_threshold(const float *values, std::int64_t count, std::int64_t wanted,
                                 float range) {
  return upper_threshold_impl(values, count, wanted, range);
}
LMC_CLONES double upper_threshold(const double *values, std::int64_t count, std::int64_t wanted,
                                  double range) {
  return upper_threshold_impl(values, count, wanted, range);
}

LMC_CLONES float second_largest(const float *values, std::int64_t count) {
  return second_largest_impl(values, count);
}
LMC_CLONES double second_largest(const double *values, std::int64_t count) {
  return second_largest_impl(values, count);
}
LMC_CLONES float smallest_size(const float *row, std::int64_t count) {
  return smallest_size_impl(row, count);
}
LMC_CLONES double smallest_size(const double *row, std::int64_t count) {
  return smallest_size_impl(row, count);
}

} // namespace lmc
