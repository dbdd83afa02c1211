#include "cross_correlation.cu"

#include "launcher.hpp"

namespace {
using lmc::LayerTable;
const simt::Kernel kernels[] = {
    SIMT_KERNEL(correlation_describe, lmc::LayerDescription),
    SIMT_KERNEL(correlation_prepare, LayerTable),
    SIMT_KERNEL(correlation_float32_64, LayerTable),
    SIMT_KERNEL(correlation_exact, LayerTable),
    SIMT_KERNEL(correlation_reduce, LayerTable),
    SIMT_KERNEL(correlation_float32_128, LayerTable),
    SIMT_KERNEL(correlation_fast_128, LayerTable),
};
} // namespace

SIMT_LIBRARY(kernels)
