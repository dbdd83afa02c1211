#pragma once

#include <cstdint>

namespace lmc {

// The first layer of a multilayer perceptron at many points in weight space. Row r of `rows` holds
// the pre-activation of one unit of one network for every sample; being linear in the weights,
// those of a point are the same weighted sum as its weights are.
struct MixedLayer {
  std::int64_t points, terms, hidden, samples, row_count;
  const float *rows;             // [rows][samples]
  const std::int64_t *unit_rows; // [networks][hidden] row of each unit
  const std::int64_t *networks;  // [points][terms]
  const float *shares;           // [points][terms]; those of the first term are implied
  const float *scale, *shift;    // [points][hidden], or null: affine map of the sums
};

// values[units][stride]: scale sum_j share_j rows_j + shift at one point, and its ReLU if `relu`,
// of consecutive units for `count` consecutive samples.
void activate(const MixedLayer &layer, std::int64_t point, std::int64_t first_unit,
              std::int64_t units, std::int64_t sample, std::int64_t count, bool relu, float *values,
              std::int64_t stride);

// out[points][hidden][samples] = scale sum_j share_j rows_j + shift, and its ReLU if `relu`.
void mixed_units(const MixedLayer &layer, bool relu, float *out, int threads);

// out[points][outputs][samples], points `out_stride` apart, = bias + weight relu(scale sum_j
// share_j rows_j + shift), with weight[points][outputs][hidden] and bias[points][outputs]. The
// hidden activations stay in cache.
void mixed_relu_linear(const MixedLayer &layer, std::int64_t outputs, const float *weight,
                       const float *bias, float *out, std::int64_t out_stride, int threads);

} // namespace lmc
