#include "barrier_cpu.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "simd.hpp"

namespace lmc {

namespace {

constexpr std::int64_t lanes = 8;

using Lanes __attribute__((vector_size(32), aligned(4), may_alias)) = float;
constexpr std::int64_t tile = 128; // samples a worker holds at a time
constexpr std::int64_t block = 32; // hidden units whose activations stay in the first-level cache
constexpr std::int64_t points_per_piece = 16;

// sums[COUNT][tile] += weight[COUNT][0..units) * active[units][tile], VECTORS lanes at a time.
template <int COUNT, int VECTORS>
LMC_INLINE void accumulate(const float *weight, std::int64_t stride, const float *active,
                           std::int64_t units, float *sums) {
  for (std::int64_t start = 0; start < tile; start += VECTORS * lanes) {
    Lanes total[COUNT][VECTORS];
    for (int c = 0; c < COUNT; ++c) {
      for (int v = 0; v < VECTORS; ++v) {
        total[c][v] = *reinterpret_cast<const Lanes *>(sums + c * tile + start + v * lanes);
      }
    }
    for (std::int64_t u = 0; u < units; ++u) {
      for (int v = 0; v < VECTORS; ++v) {
        const Lanes z = *reinterpret_cast<const Lanes *>(active + u * tile + start + v * lanes);
        for (int c = 0; c < COUNT; ++c) {
          total[c][v] += weight[c * stride + u] * z;
        }
      }
    }
    for (int c = 0; c < COUNT; ++c) {
      for (int v = 0; v < VECTORS; ++v) {
        *reinterpret_cast<Lanes *>(sums + c * tile + start + v * lanes) = total[c][v];
      }
    }
  }
}

// First plus differences: exact where the networks agree.
LMC_INLINE void mix(const float *__restrict base, const float *__restrict other, float share,
                    std::int64_t count, float *__restrict z) {
  for (std::int64_t s = 0; s < count; ++s) {
    z[s] = base[s] + share * (other[s] - base[s]);
  }
}

LMC_INLINE void add_difference(const float *__restrict base, const float *__restrict other,
                               float share, std::int64_t count, float *__restrict z) {
  for (std::int64_t s = 0; s < count; ++s) {
    z[s] += share * (other[s] - base[s]);
  }
}

// Written so that a NaN stays one.
LMC_INLINE void relu(std::int64_t count, float *__restrict z) {
  for (std::int64_t s = 0; s < count; ++s) {
    z[s] = z[s] < 0.0F ? 0.0F : z[s];
  }
}

// values[units][stride]: the activations of consecutive units for `count` consecutive samples.
LMC_CLONES void activate(const MixedLayer &layer, std::int64_t point, std::int64_t first_unit,
                         std::int64_t units, std::int64_t sample, std::int64_t count,
                         bool with_relu, float *values, std::int64_t stride) {
  const std::int64_t *networks = layer.networks + point * layer.terms;
  const float *shares = layer.shares + point * layer.terms;
  for (std::int64_t u = 0; u < units; ++u) {
    const std::int64_t unit = first_unit + u;
    const auto row = [&](std::int64_t term) {
      const std::int64_t r = layer.unit_rows[networks[term] * layer.hidden + unit];
      return layer.rows + r * layer.samples + sample;
    };
    const float *const base = row(0);
    float *const z = values + u * stride;
    if (layer.terms == 1) {
      std::copy_n(base, count, z);
    } else {
      mix(base, row(1), shares[1], count, z);
      for (std::int64_t term = 2; term < layer.terms; ++term) {
        add_difference(base, row(term), shares[term], count, z);
      }
    }
    if (layer.scale != nullptr) {
      const float scale = layer.scale[point * layer.hidden + unit];
      const float shift = layer.shift[point * layer.hidden + unit];
      for (std::int64_t s = 0; s < count; ++s) {
        z[s] = scale * z[s] + shift;
      }
    }
    if (with_relu) {
      relu(count, z);
    }
  }
}

LMC_CLONES void accumulate_outputs(const float *weight, std::int64_t outputs, std::int64_t stride,
                                   const float *active, std::int64_t units, float *sums) {
  std::int64_t c = 0;
  for (; c + 4 <= outputs; c += 4) {
    accumulate<4, 2>(weight + c * stride, stride, active, units, sums + c * tile);
  }
  for (; c + 2 <= outputs; c += 2) {
    accumulate<2, 4>(weight + c * stride, stride, active, units, sums + c * tile);
  }
  if (c < outputs) {
    accumulate<1, 8>(weight + c * stride, stride, active, units, sums + c * tile);
  }
}

} // namespace

void mixed_units(const MixedLayer &layer, bool relu, float *out, int threads) {
  parallel_for(layer.points * layer.hidden, block, threads,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   activate(layer, i / layer.hidden, i % layer.hidden, 1, 0, layer.samples, relu,
                            out + i * layer.samples, layer.samples);
                 }
               });
}

void mixed_relu_linear(const MixedLayer &layer, std::int64_t outputs, const float *weight,
                       const float *bias, float *out, int threads) {
  const std::int64_t tiles = (layer.samples + tile - 1) / tile;
  const std::int64_t groups = (layer.points + points_per_piece - 1) / points_per_piece;
  // Neighbouring pieces share a tile of samples, whose rows stay in the cache.
  parallel_for(tiles * groups, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> active(static_cast<std::size_t>(block * tile));
    std::vector<float> sums(static_cast<std::size_t>(outputs * tile));
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t sample = piece / groups * tile;
      const std::int64_t count = std::min(tile, layer.samples - sample);
      const std::int64_t first = piece % groups * points_per_piece;
      const std::int64_t last = std::min(layer.points, first + points_per_piece);
      for (std::int64_t point = first; point < last; ++point) {
        for (std::int64_t c = 0; c < outputs; ++c) {
          std::fill_n(sums.data() + c * tile, tile, bias[point * outputs + c]);
        }
        for (std::int64_t unit = 0; unit < layer.hidden; unit += block) {
          const std::int64_t units = std::min(block, layer.hidden - unit);
          activate(layer, point, unit, units, sample, count, true, active.data(), tile);
          accumulate_outputs(weight + point * outputs * layer.hidden + unit, outputs, layer.hidden,
                             active.data(), units, sums.data());
        }
        for (std::int64_t c = 0; c < outputs; ++c) {
          std::copy_n(sums.data() + c * tile, count,
                      out + (point * outputs + c) * layer.samples + sample);
        }
      }
    }
  });
}

} // namespace lmc
