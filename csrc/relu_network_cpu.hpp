#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "barrier_cpu.hpp"

namespace lmc {

// A linear layer at many points: its weights are those of the networks, mixed as in a MixedLayer.
struct MixedLinear {
  std::int64_t inputs, outputs;
  std::vector<const float *> weights; // [networks], each [outputs][inputs]
  std::vector<const float *> biases;  // [networks], each [outputs]; empty without biases
  const float *scale, *shift;         // [points][outputs], or null: affine map of the outputs
};

// Bytes that one thread takes, for a network with so many units in its linear layers.
std::int64_t relu_network_bytes(const std::vector<std::int64_t> &units);

// out[points][outputs][samples], points `out_stride` apart: the last of the linear layers that
// follow `first`, each on the ReLU of the one before. Units that are zero for an example are
// skipped, which is exact: an element's sum has one order whatever the number of threads. Returns
// false when `interrupted` did, with `out` undefined.
bool mixed_relu_network(const MixedLayer &first, const std::vector<MixedLinear> &layers, float *out,
                        std::int64_t out_stride, int instruction_set, int threads,
                        const std::function<bool()> &interrupted);

} // namespace lmc
