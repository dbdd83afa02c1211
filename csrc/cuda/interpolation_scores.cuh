// Cross-entropy and argmax of samples at points in weight space, class by class.
#pragma once

#include "primitives.cuh"

namespace lmc {

constexpr int grid_threads = 128;
constexpr int tile_classes = 10;
constexpr Int64 ignored_target = -100;

struct Scoring {
  const Int64 *targets; // [samples]
  double *loss;         // [points][samples]
  unsigned char *wrong; // [points][samples]: 0 or 1
  int *status;          // 1: a target is no class
  int points;
  int samples;
  int hidden;
  int classes;

  // Of a sample past the last one, a target that is left out.
  __device__ Int64 target_of(Int64 sample) const {
    const Int64 target = sample < samples ? targets[sample] : ignored_target;
    if (target != ignored_target && (target < 0 || target >= classes))
      atomic_or(status, 1);
    return target;
  }
};

// Softmax over classes that come one after the other. `others` is the sum of exp(z - greatest) over
// all but the greatest, so that a small loss keeps its digits.
struct RunningSoftmax {
  float greatest, others, picked;
  int best;

  __device__ static RunningSoftmax empty() { return {-bits_to_float(0x7f800000u), 0.0f, 0.0f, 0}; }

  __device__ void add(float z, int label, Int64 target) {
    if (z > greatest || z != z) {
      others = (others + 1.0f) * expf(greatest - z);
      greatest = z;
      best = label;
    } else {
      others += expf(z - greatest);
    }
    picked = label == target ? z : picked;
  }

  __device__ void write(const Scoring &scoring, int point, Int64 sample, Int64 target) const {
    if (sample >= scoring.samples || point >= scoring.points)
      return;
    const bool counts = target != ignored_target;
    const Int64 at = Int64(point) * scoring.samples + sample;
    scoring.loss[at] = counts ? double(greatest - picked) + double(log1pf(others)) : 0.0;
    scoring.wrong[at] = counts && best != target;
  }
};

// Written so that NaN passes through, as it does through torch's ReLU.
__device__ inline float relu(float value) { return value < 0.0f ? 0.0f : value; }

} // namespace lmc
