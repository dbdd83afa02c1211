#include "assignment.cu"

#include "launcher.hpp"

namespace {
const simt::Kernel kernels[] = {SIMT_KERNEL(assignment, lmc::AssignmentParams)};
} // namespace

SIMT_LIBRARY(kernels)
