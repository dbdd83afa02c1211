// What the kernels ask of the hardware, and nothing else. No header is included, so that NVRTC
// compiles the kernels without a toolkit; on the host, tests/simt/simt.hpp gives the same
// functions.
#pragma once

namespace lmc {
using Int64 = long long;
using UInt32 = unsigned int;
using UInt16 = unsigned short;

struct alignas(16) Float4 {
  float at[4];
};
} // namespace lmc

#if defined(__CUDACC__)

namespace lmc {

__device__ inline unsigned char *shared_memory() {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  return dynamic_shared;
}

__device__ inline UInt32 shared_address(const void *pointer) {
  UInt32 address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }"
      : "=r"(address)
      : "l"(pointer));
  return address;
}

__device__ inline void barrier() { __syncthreads(); }

// Two floats rounded to halves, the first in the lower 16 bits.
__device__ inline UInt32 pack_halves(float low, float high) {
  UInt32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ inline float half_to_float(UInt16 half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

__device__ inline float bits_to_float(UInt32 bits) { return __uint_as_float(bits); }
__device__ inline UInt32 float_to_bits(float value) { return __float_as_uint(value); }

__device__ inline double bits_to_double(Int64 bits) { return __longlong_as_double(bits); }
__device__ inline Int64 double_to_bits(double value) { return __double_as_longlong(value); }

// To the nearest integer, ties to even.
__device__ inline Int64 round_to_integer(double value) {
  Int64 rounded;
  asm("cvt.rni.s64.f64 %0, %1;" : "=l"(rounded) : "d"(value));
  return rounded;
}

// Four 8x8 blocks of halves; lane l gives the address of row l % 8 of block l / 8.
template <bool Transposed>
__device__ inline void load_matrices(UInt32 (&out)[4], const UInt16 *row) {
  const UInt32 address = shared_address(row);
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// d += a b: a is 16 x 16, b is 16 x 8, both halves; d is float.
__device__ inline void multiply_add(float (&d)[4], const UInt32 (&a)[4], UInt32 b0, UInt32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a b: a is 8 x 4, b is 4 x 8. Lane l holds a[l / 4][l % 4], b[l % 4][l / 4] and two of d, at
// [l / 4][2 (l % 4)].
__device__ inline void multiply_add(double (&d)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
}

// Starts a copy of `available` bytes (the rest of Bytes is filled with zeros) into shared memory.
template <int Bytes>
__device__ inline void copy_async(void *shared, const void *global, int available) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
               "l"(global), "n"(Bytes), "r"(available)
               : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most Pending of this thread's committed groups are still under way.
template <int Pending> __device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

template <class Value> __device__ inline Value shuffle_xor(Value value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

__device__ inline void atomic_or(int *word, int bits) { atomicOr(word, bits); }
__device__ inline void atomic_min(int *word, int value) { atomicMin(word, value); }
__device__ inline int atomic_add(int *word, int value) { return atomicAdd(word, value); }

} // namespace lmc

#else
#include "simt.hpp"
#endif

namespace lmc {

// One 16-byte access.
__device__ inline Float4 load4(const float *from) {
  return *reinterpret_cast<const Float4 *>(from);
}

} // namespace lmc
