#include "interpolation_grid.cu"

#include "launcher.hpp"

namespace {
using lmc::GridParams;
const simt::Kernel kernels[] = {
    SIMT_KERNEL(interpolation_grid_2, GridParams),
    SIMT_KERNEL(interpolation_grid_3, GridParams),
    SIMT_KERNEL(interpolation_head, lmc::HeadParams),
};
} // namespace

SIMT_LIBRARY(kernels)
