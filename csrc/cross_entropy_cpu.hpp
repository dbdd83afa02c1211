#pragma once

#include <cstdint>

namespace lmc {

// Cross-entropy of logits[points][classes][examples] with labels[examples], each in
// [0, classes) or negative to leave the example out. Writes loss[points][examples] and whether the
// largest logit is not the label's, wrong[points][examples], and the sums of both, sums[points][2].
// Relative error of a loss: about 1e-6, also of small ones down to 1e-30.
void cross_entropy(const float *logits, const std::int32_t *labels, std::int64_t points,
                   std::int64_t classes, std::int64_t examples, float *loss, std::uint8_t *wrong,
                   double *sums, int threads);

} // namespace lmc
