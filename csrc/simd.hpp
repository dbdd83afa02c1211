#pragma once

#include <cstdint>
#include <type_traits>

// One kernel, three instruction sets: the loader picks the clone the processor can run. The
// arithmetic in these kernels is exact or order-free, so all clones return the same bits.
// Sanitizers and C libraries without ifunc get the baseline.
#if defined(LMC_TARGET_CLONES)
#define LMC_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LMC_CLONES
#endif

// Part of a clone: must be inlined to be compiled for the clone's instruction set.
#define LMC_INLINE __attribute__((always_inline)) inline
#define LMC_INLINED __attribute__((always_inline)) // the same for a lambda

namespace lmc {

// Packed buffers hold whole tiles.
inline std::int64_t rounded_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

// Unaligned vectors of four doubles and eight floats, and integers of the same widths for their
// places. The compiler splits selects on vectors wider than a register into scalars, so these are
// as wide as AVX2, the commonest.
using Doubles __attribute__((vector_size(32), aligned(8), may_alias)) = double;
using Floats __attribute__((vector_size(32), aligned(4), may_alias)) = float;
using Longs __attribute__((vector_size(32), aligned(8), may_alias)) = std::int64_t;
using Ints __attribute__((vector_size(32), aligned(4), may_alias)) = std::int32_t;

// A trait and not std::conditional: template arguments lose their alignment attribute.
template <class T> struct VectorOf {
  using Type = Floats;
  using Places = Ints;
};
template <> struct VectorOf<double> {
  using Type = Doubles;
  using Places = Longs;
};
template <class T> using Vector = typename VectorOf<T>::Type;
template <class T> using Places = typename VectorOf<T>::Places;
template <class T> constexpr std::int64_t width = sizeof(Vector<T>) / sizeof(T);
template <class T>
using Integer = std::conditional_t<std::is_same_v<T, float>, std::int32_t, std::int64_t>;

template <class T> LMC_INLINE const Vector<T> &load(const T *at) {
  return *reinterpret_cast<const Vector<T> *>(at);
}
template <class T> LMC_INLINE Vector<T> &store(T *at) { return *reinterpret_cast<Vector<T> *>(at); }

LMC_INLINE Longs lane_numbers(double) { return Longs{0, 1, 2, 3}; }
LMC_INLINE Ints lane_numbers(float) { return Ints{0, 1, 2, 3, 4, 5, 6, 7}; }

// Sets one of the values by writing the whole vector it is loaded with: a load that is wider than
// the write before it would have to wait for it.
template <class T> LMC_INLINE void put(T *values, std::int64_t at, T value) {
  const std::int64_t lane = at & (width<T> - 1);
  Vector<T> &whole = store(values + (at - lane));
  whole = lane_numbers(T{}) == static_cast<Integer<T>>(lane) ? Vector<T>{} + value : whole;
}

// Four entries as doubles.
LMC_INLINE Doubles widened(const double *at) { return load(at); }
LMC_INLINE Doubles widened(const float *at) {
  return Doubles{static_cast<double>(at[0]), static_cast<double>(at[1]), static_cast<double>(at[2]),
                 static_cast<double>(at[3])};
}

// By value: deduced from a reference into memory, the type would lose its alignment of one element.
LMC_INLINE Doubles larger(Doubles a, Doubles b) { return a > b ? a : b; }
LMC_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
LMC_INLINE Doubles smaller(Doubles a, Doubles b) { return a < b ? a : b; }
LMC_INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

// Lane k becomes lane k ^ step: the lanes meet each other in a tournament of steps halving.
template <int step> LMC_INLINE Doubles swapped(const Doubles &v) {
  return __builtin_shufflevector(v, v, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step);
}
template <int step> LMC_INLINE Longs swapped(const Longs &v) {
  return __builtin_shufflevector(v, v, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step);
}
template <int step> LMC_INLINE Floats swapped(const Floats &v) {
  return __builtin_shufflevector(v, v, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step, 4 ^ step, 5 ^ step,
                                 6 ^ step, 7 ^ step);
}
template <int step> LMC_INLINE Ints swapped(const Ints &v) {
  return __builtin_shufflevector(v, v, 0 ^ step, 1 ^ step, 2 ^ step, 3 ^ step, 4 ^ step, 5 ^ step,
                                 6 ^ step, 7 ^ step);
}

// Eight vectors become eight others: number i of vector k is number k of vector i.
LMC_INLINE void transpose(Floats (&x)[8]) {
  Floats y[8];
  for (int i = 0; i < 8; i += 2) {
    y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Floats z[8];
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      z[i + 2 * j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      z[i + 2 * j + 1] =
          __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = __builtin_shufflevector(z[i], z[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = __builtin_shufflevector(z[i], z[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Whether a lane is not zero.
template <class Lanes> LMC_INLINE bool any_lane(const Lanes &lanes) {
  const auto pairs = reinterpret_cast<Longs>(lanes);
  return (pairs[0] | pairs[1] | pairs[2] | pairs[3]) != 0;
}

// Combines all lanes with an operation that does not mind the order.
template <class Combine> LMC_INLINE double folded(Doubles v, const Combine &combine) {
  v = combine(v, swapped<2>(v));
  return combine(v, swapped<1>(v))[0];
}
template <class Combine> LMC_INLINE float folded(Floats v, const Combine &combine) {
  v = combine(v, swapped<4>(v));
  v = combine(v, swapped<2>(v));
  return combine(v, swapped<1>(v))[0];
}
template <class Combine> LMC_INLINE std::int64_t folded(Longs v, const Combine &combine) {
  v = combine(v, swapped<2>(v));
  return combine(v, swapped<1>(v))[0];
}
template <class Combine> LMC_INLINE std::int32_t folded(Ints v, const Combine &combine) {
  v = combine(v, swapped<4>(v));
  v = combine(v, swapped<2>(v));
  return combine(v, swapped<1>(v))[0];
}

// The largest that each lane has seen, and its place.
template <class T> struct LaneTop {
  Vector<T> first;
  Places<T> place;

  LMC_INLINE void see(const Vector<T> &x, const Places<T> &at) {
    place = x > first ? at : place;
    first = larger(x, first);
  }

  // Afterwards lane 0 knows of all lanes.
  LMC_INLINE void gather() {
    if constexpr (width<T> == 8) {
      see(swapped<4>(first), swapped<4>(place));
    }
    see(swapped<2>(first), swapped<2>(place));
    see(swapped<1>(first), swapped<1>(place));
  }
};

// The two largest that each lane has seen, and the place of the largest.
template <class T> struct LaneTopTwo {
  Vector<T> first, second;
  Places<T> place;

  LMC_INLINE void see(const Vector<T> &x, const Places<T> &at) {
    second = larger(smaller(x, first), second);
    place = x > first ? at : place;
    first = larger(x, first);
  }

  LMC_INLINE void merge(const Vector<T> &x, const Vector<T> &y, const Places<T> &at) {
    second = larger(larger(second, y), smaller(first, x));
    place = x > first ? at : place;
    first = larger(first, x);
  }

  LMC_INLINE void gather() {
    if constexpr (width<T> == 8) {
      merge(swapped<4>(first), swapped<4>(second), swapped<4>(place));
    }
    merge(swapped<2>(first), swapped<2>(second), swapped<2>(place));
    merge(swapped<1>(first), swapped<1>(second), swapped<1>(place));
  }
};

} // namespace lmc
