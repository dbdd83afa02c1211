#include "cross_correlation.cu"

#include "launcher.hpp"

namespace {
using lmc::CorrelationParams;
const simt::Kernel kernels[] = {
    SIMT_KERNEL(correlation_prepare, CorrelationParams),
    SIMT_KERNEL(correlation_float32_32, CorrelationParams),
    SIMT_KERNEL(correlation_fast_32, CorrelationParams),
    SIMT_KERNEL(correlation_reduce_32, CorrelationParams),
#if !defined(SIMT_SMALL)
    SIMT_KERNEL(correlation_float32_128, CorrelationParams),
    SIMT_KERNEL(correlation_float32_64, CorrelationParams),
    SIMT_KERNEL(correlation_fast_128, CorrelationParams),
    SIMT_KERNEL(correlation_fast_64, CorrelationParams),
    SIMT_KERNEL(correlation_reduce_128, CorrelationParams),
    SIMT_KERNEL(correlation_reduce_64, CorrelationParams),
#endif
};
} // namespace

SIMT_LIBRARY(kernels)
