#include "cross_entropy_cpu.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "parallel.hpp"
#include "simd.hpp"

namespace lmc {

namespace {

constexpr std::int64_t tile = 256;

// e^x for x <= 0, without a branch so that loops over it become vector code: 2^n times the Taylor
// polynomial on [-ln(2)/2, ln(2)/2]. NaN stays NaN.
LMC_INLINE float exp_nonpositive(float x) {
  const float clamped = x < -87.0F ? -87.0F : x;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const float shifted = clamped * 1.44269504F + 12582912.0F;
  const float n = shifted - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.3888889e-3F;
  p = p * r + 8.3333333e-3F;
  p = p * r + 4.1666667e-2F;
  p = p * r + 1.6666667e-1F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = (std::bit_cast<std::uint32_t>(shifted) - 0x4B400000U + 127U) << 23U;
  return p * std::bit_cast<float>(exponent);
}

// ln(1 + x) for x >= 0: the mantissa of 1 + x is brought to [2/3, 4/3), where
// ln(1 + f) = 2 artanh(f / (2 + f)); what 1 + x rounded away is added to first order.
LMC_INLINE float log1p_nonnegative(float x) {
  const float u = 1.0F + x;
  const auto bits = std::bit_cast<std::uint32_t>(u);
  const auto shifted = static_cast<std::int32_t>(bits - 0x3F2AAAABU) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(shifted) << 23U));
  const float f = m - 1.0F;
  const float s = f / (2.0F + f);
  const float s2 = s * s;
  float p = 2.0F / 11.0F;
  p = p * s2 + 2.0F / 9.0F;
  p = p * s2 + 2.0F / 7.0F;
  p = p * s2 + 2.0F / 5.0F;
  p = p * s2 + 2.0F / 3.0F;
  const float near = 2.0F * s + s * s2 * p;
  const float log_u = static_cast<float>(shifted) * 0.693147181F + near;
  return log_u + (x - (u - 1.0F)) / u;
}

LMC_CLONES void cross_entropy_tile(const float *__restrict logits, std::int64_t stride,
                                   std::int64_t classes, const std::int32_t *__restrict labels,
                                   std::int64_t count, float *__restrict loss,
                                   std::uint8_t *__restrict wrong) {
  std::array<float, tile> top;
  std::array<float, tile> picked;
  std::array<float, tile> rest;
  std::array<std::int32_t, tile> best;
  for (std::int64_t s = 0; s < count; ++s) {
    top[s] = logits[s];
    picked[s] = logits[s];
    rest[s] = 0.0F;
    best[s] = 0;
  }
  for (std::int64_t c = 1; c < classes; ++c) {
    const float *row = logits + c * stride;
    const auto label = static_cast<std::int32_t>(c);
    for (std::int64_t s = 0; s < count; ++s) {
      const bool higher = row[s] > top[s];
      best[s] = higher ? label : best[s];
      top[s] = higher ? row[s] : top[s];
      picked[s] = labels[s] == label ? row[s] : picked[s];
    }
  }
  for (std::int64_t c = 0; c < classes; ++c) {
    const float *row = logits + c * stride;
    const auto label = static_cast<std::int32_t>(c);
    for (std::int64_t s = 0; s < count; ++s) {
      const float term = exp_nonpositive(row[s] - top[s]);
      rest[s] += best[s] == label ? 0.0F : term;
    }
  }
  for (std::int64_t s = 0; s < count; ++s) {
    const float value = (top[s] - picked[s]) + log1p_nonnegative(rest[s]);
    loss[s] = labels[s] < 0 ? 0.0F : value;
  }
  for (std::int64_t s = 0; s < count; ++s) {
    wrong[s] = static_cast<std::uint8_t>((labels[s] >= 0) & (best[s] != labels[s]));
  }
}

// sums[2]: of the losses and of the wrongs, in double, eight partial sums each.
LMC_CLONES void sum_tiles(const float *__restrict loss, const std::uint8_t *__restrict wrong,
                          std::int64_t examples, double *__restrict sums) {
  constexpr std::int64_t lanes = 8;
  std::array<double, lanes> partial{};
  std::int64_t count = 0;
  std::int64_t s = 0;
  for (; s + lanes <= examples; s += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      partial[lane] += static_cast<double>(loss[s + lane]);
    }
  }
  for (; s < examples; ++s) {
    partial[0] += static_cast<double>(loss[s]);
  }
  for (std::int64_t e = 0; e < examples; ++e) {
    count += wrong[e];
  }
  sums[0] = 0.0;
  for (const double part : partial) {
    sums[0] += part;
  }
  sums[1] = static_cast<double>(count);
}

} // namespace

void cross_entropy(const float *logits, const std::int32_t *labels, std::int64_t points,
                   std::int64_t classes, std::int64_t examples, float *loss, std::uint8_t *wrong,
                   double *sums, int threads) {
  const std::int64_t grain =
      std::max<std::int64_t>(1, (1 << 17) / std::max<std::int64_t>(classes * examples, 1));
  parallel_for(points, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t point = begin; point < end; ++point) {
      const float *values = logits + point * classes * examples;
      float *losses = loss + point * examples;
      std::uint8_t *wrongs = wrong + point * examples;
      for (std::int64_t start = 0; start < examples; start += tile) {
        cross_entropy_tile(values + start, examples, classes, labels + start,
                           std::min(tile, examples - start), losses + start, wrongs + start);
      }
      sum_tiles(losses, wrongs, examples, sums + 2 * point);
    }
  });
}

} // namespace lmc
