// Weights of one layer at one point, mixed and put in the order that the kernel of ReLU networks
// reads them. Included by that kernel alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "relu_network_cpu.hpp"
#include "simd.hpp"

namespace lmc {

// The register tile of each instruction set: up to WIDEST vectors of outputs for one example, or
// fewer for more examples. A block of weights for it stays in the first-level cache.
template <int BYTES, int WIDEST> struct Tile {
  using Vector __attribute__((vector_size(BYTES), aligned(4), may_alias)) = float;
  static constexpr int lanes = BYTES / 4;
  static constexpr int widest = WIDEST;
  static constexpr int rows(int vectors) {
    return 2 * vectors > widest ? 1 : std::min(widest / vectors, 6);
  }
};

// A layer at one point: panels of neighbouring outputs, weights[input][output] in each.
struct PackedLayer {
  std::int64_t inputs, outputs;
  std::vector<std::int64_t> panels; // where each begins, in vectors of outputs, and the end
  float *weights;
  float *bias;
  bool finite;
};

template <class Shape> std::vector<std::int64_t> panels_of(std::int64_t outputs) {
  const std::int64_t vectors = (outputs + Shape::lanes - 1) / Shape::lanes;
  const std::int64_t count = (vectors + Shape::widest - 1) / Shape::widest;
  std::vector<std::int64_t> begins;
  for (std::int64_t p = 0; p <= count; ++p) {
    begins.push_back(p * vectors / count);
  }
  return begins;
}

// Eight neighbouring numbers, zero from `valid` on.
LMC_INLINE Floats loaded(const float *at, std::int64_t valid) {
  if (valid >= 8) {
    return load(at);
  }
  Floats found{};
  for (std::int64_t i = 0; i < valid; ++i) {
    found[i] = at[i];
  }
  return found;
}

// First plus differences, which is exact where the networks agree.
LMC_INLINE Floats mixed(const std::vector<const float *> &tensors, const std::int64_t *networks,
                        const float *shares, std::int64_t terms, std::int64_t offset,
                        std::int64_t valid) {
  const Floats base = loaded(tensors[static_cast<std::size_t>(networks[0])] + offset, valid);
  Floats sum = base;
  for (std::int64_t t = 1; t < terms; ++t) {
    const float *const other = tensors[static_cast<std::size_t>(networks[t])] + offset;
    sum += shares[t] * (loaded(other, valid) - base);
  }
  return sum;
}

// Fills the weights and the bias of `packed`, and whether all are finite.
template <class Shape>
LMC_INLINE void pack(const MixedLayer &first, const MixedLinear &layer, std::int64_t point,
                     PackedLayer &packed) {
  const std::int64_t *const networks = first.networks + point * first.terms;
  const float *const shares = first.shares + point * first.terms;
  const std::int64_t inputs = layer.inputs;
  const float *const scale = layer.scale ? layer.scale + point * layer.outputs : nullptr;
  const float *const shift = layer.scale ? layer.shift + point * layer.outputs : nullptr;
  Floats odd{};
  for (std::size_t p = 0; p + 1 < packed.panels.size(); ++p) {
    const std::int64_t begin = packed.panels[p] * Shape::lanes;
    const std::int64_t width = packed.panels[p + 1] * Shape::lanes - begin;
    float *const panel = packed.weights + begin * rounded_up(inputs, 8);
    for (std::int64_t u = 0; u < width; u += 8) {
      const std::int64_t unit = begin + u;
      const std::int64_t units = std::clamp<std::int64_t>(layer.outputs - unit, 0, 8);
      Floats sums{};
      if (!layer.biases.empty()) {
        sums = mixed(layer.biases, networks, shares, first.terms, unit, units);
      }
      if (scale != nullptr) {
        sums = sums * loaded(scale + unit, units) + loaded(shift + unit, units);
      }
      store(packed.bias + unit) = sums;
      for (std::int64_t k = 0; k < inputs; k += 8) {
        Floats x[8] = {};
        for (std::int64_t i = 0; i < units; ++i) {
          x[i] = mixed(layer.weights, networks, shares, first.terms, (unit + i) * inputs + k,
                       inputs - k);
          if (scale != nullptr) {
            x[i] *= scale[unit + i];
          }
          odd += x[i] * 0.0F;
        }
        transpose(x);
        for (std::int64_t i = 0; i < 8; ++i) {
          store(panel + (k + i) * width + u) = x[i];
        }
      }
    }
  }
  packed.finite = true;
  for (int i = 0; i < 8; ++i) {
    packed.finite = packed.finite && odd[i] == 0.0F;
  }
}

} // namespace lmc
