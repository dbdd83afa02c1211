#pragma once

// One kernel, three instruction sets: the loader picks the clone the processor can run. The
// arithmetic in these kernels is exact or order-free, so all clones return the same bits.
// Sanitizers and C libraries without ifunc get the baseline.
#if defined(LMC_TARGET_CLONES)
#define LMC_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LMC_CLONES
#endif

namespace lmc {

// Unaligned vectors of eight doubles and sixteen floats, as wide as AVX-512 and split by the
// compiler where registers are narrower.
using Doubles __attribute__((vector_size(64), aligned(8), may_alias)) = double;
using Floats __attribute__((vector_size(64), aligned(4), may_alias)) = float;

} // namespace lmc
