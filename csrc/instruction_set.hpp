#pragma once

#include <algorithm>
#include <cstddef>

#if defined(__x86_64__) && defined(__GNUC__)
#define LMC_X86
#endif

namespace lmc {

// The best instruction set this processor runs of those that packed kernels are compiled for:
// 0 for the baseline.
inline int best_instruction_set() {
#if defined(LMC_X86)
  if (__builtin_cpu_supports("avx512f")) {
    return 2;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
#else
  return 0;
#endif
}

// One of a kernel's variants, from the baseline up: the one asked for, or the best that runs here.
template <class Kernel, std::size_t COUNT>
Kernel variant(const Kernel (&variants)[COUNT], int instruction_set) {
  const int best = std::min(best_instruction_set(), static_cast<int>(COUNT) - 1);
  return variants[std::clamp(instruction_set, 0, best)];
}

} // namespace lmc
