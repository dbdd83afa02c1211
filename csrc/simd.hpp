#pragma once

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

// Unaligned vectors of four doubles and eight floats. The compiler splits selects on vectors wider
// than a register into scalars, so these are as wide as AVX2, the commonest.
using Doubles __attribute__((vector_size(32), aligned(8), may_alias)) = double;
using Floats __attribute__((vector_size(32), aligned(4), may_alias)) = float;

} // namespace lmc
