#pragma once

#include <cstdint>

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

namespace lmc {

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

template <class T> LMC_INLINE const Vector<T> &load(const T *at) {
  return *reinterpret_cast<const Vector<T> *>(at);
}
template <class T> LMC_INLINE Vector<T> &store(T *at) { return *reinterpret_cast<Vector<T> *>(at); }

LMC_INLINE Longs lane_numbers(double) { return Longs{0, 1, 2, 3}; }
LMC_INLINE Ints lane_numbers(float) { return Ints{0, 1, 2, 3, 4, 5, 6, 7}; }

template <class V> LMC_INLINE V larger(const V &a, const V &b) { return a > b ? a : b; }
template <class V> LMC_INLINE V smaller(const V &a, const V &b) { return a < b ? a : b; }

// The lanes turned round by `step`.
template <int step> LMC_INLINE Doubles turned(const Doubles &v) {
  return __builtin_shufflevector(v, v, step, step + 1, (step + 2) % 4, (step + 3) % 4);
}
template <int step> LMC_INLINE Longs turned(const Longs &v) {
  return __builtin_shufflevector(v, v, step, step + 1, (step + 2) % 4, (step + 3) % 4);
}
template <int step> LMC_INLINE Floats turned(const Floats &v) {
  return __builtin_shufflevector(v, v, step, step + 1, step + 2, step + 3, (step + 4) % 8,
                                 (step + 5) % 8, (step + 6) % 8, (step + 7) % 8);
}
template <int step> LMC_INLINE Ints turned(const Ints &v) {
  return __builtin_shufflevector(v, v, step, step + 1, step + 2, step + 3, (step + 4) % 8,
                                 (step + 5) % 8, (step + 6) % 8, (step + 7) % 8);
}

// Every lane becomes the largest of them.
template <class V> LMC_INLINE V largest_lane(V v) {
  if constexpr (sizeof(v[0]) == 4) {
    v = larger(v, turned<4>(v));
  }
  v = larger(v, turned<2>(v));
  return larger(v, turned<1>(v));
}

// The two largest of all that lanes have seen, each lane its own two, and where the largest is: of
// several places the one with the largest number.
template <class T> struct LaneTopTwo {
  Vector<T> first, second;
  Places<T> place;

  LMC_INLINE void see(const Vector<T> &x, const Places<T> &at) {
    second = larger(smaller(x, first), second);
    place = x > first ? at : place;
    first = larger(x, first);
  }

  LMC_INLINE void merge(const LaneTopTwo &other) {
    second = larger(larger(second, other.second), smaller(first, other.first));
    place = other.first > first ? other.place : place;
    first = larger(first, other.first);
  }

  LMC_INLINE void reduce(T &best, T &next, std::int64_t &index) const {
    const Vector<T> top = largest_lane(first);
    const Places<T> winner = largest_lane(first == top ? place : Places<T>{} - 1);
    // All lanes but the winner's count with their first.
    const Vector<T> rest = place == winner ? second : first;
    best = top[0];
    next = largest_lane(rest)[0];
    index = winner[0];
  }
};

} // namespace lmc
