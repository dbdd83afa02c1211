#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define LMC_X86
#endif

namespace lmc {

// Instruction sets that packed kernels are compiled for, from the baseline up.
inline constexpr int instruction_sets = 3;

// The best instruction set this processor runs, counted from 0.
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

} // namespace lmc
