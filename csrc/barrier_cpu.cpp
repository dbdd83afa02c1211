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
constexpr std::int64_t points_per_piece = 64;
constexpr std::int64_t most_at_once = 4;   // points whose sums fit into registers together
constexpr std::int64_t cached_rows = 2048; // whose samples of one tile the cache holds

// sums[COUNT][tile] += weight[COUNT][0..units) * active[units][tile], VECTORS lanes at a time.
template <int COUNT, int VECTORS>
LMC_INLINE void accumulate(const float *weight, std::int64_t stride, const float *active,
                           std::int64_t units, std::int64_t count, float *sums) {
  for (std::int64_t start = 0; start < count; start += VECTORS * lanes) {
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

// Written so that a NaN stays one.
LMC_INLINE float rectified(float z) { return 0.0F > z ? 0.0F : z; }

// First plus differences: exact where the networks agree.
template <bool RELU>
LMC_INLINE void mix(const float *__restrict base, const float *__restrict other, float share,
                    std::int64_t count, float *__restrict z) {
  for (std::int64_t s = 0; s < count; ++s) {
    const float value = base[s] + share * (other[s] - base[s]);
    z[s] = RELU ? rectified(value) : value;
  }
}

LMC_INLINE void add_difference(const float *__restrict base, const float *__restrict other,
                               float share, std::int64_t count, float *__restrict z) {
  for (std::int64_t s = 0; s < count; ++s) {
    z[s] += share * (other[s] - base[s]);
  }
}

LMC_INLINE const float *row_of(const MixedLayer &layer, std::int64_t network, std::int64_t unit) {
  return layer.rows + layer.unit_rows[network * layer.hidden + unit] * layer.samples;
}

} // namespace

LMC_CLONES void activate(const MixedLayer &layer, std::int64_t point, std::int64_t first_unit,
                         std::int64_t units, std::int64_t sample, std::int64_t count,
                         bool with_relu, float *values, std::int64_t stride) {
  const std::int64_t *networks = layer.networks + point * layer.terms;
  const float *shares = layer.shares + point * layer.terms;
  const bool scaled = layer.scale != nullptr;
  for (std::int64_t u = 0; u < units; ++u) {
    const std::int64_t unit = first_unit + u;
    const float *const base = row_of(layer, networks[0], unit) + sample;
    float *const z = values + u * stride;
    if (layer.terms == 2 && with_relu && !scaled) {
      mix<true>(base, row_of(layer, networks[1], unit) + sample, shares[1], count, z);
      continue;
    }
    if (layer.terms == 1) {
      std::copy_n(base, count, z);
    } else {
      mix<false>(base, row_of(layer, networks[1], unit) + sample, shares[1], count, z);
      for (std::int64_t term = 2; term < layer.terms; ++term) {
        add_difference(base, row_of(layer, networks[term], unit) + sample, shares[term], count, z);
      }
    }
    if (scaled) {
      const float scale = layer.scale[point * layer.hidden + unit];
      const float shift = layer.shift[point * layer.hidden + unit];
      for (std::int64_t s = 0; s < count; ++s) {
        z[s] = scale * z[s] + shift;
      }
    }
    if (with_relu) {
      for (std::int64_t s = 0; s < count; ++s) {
        z[s] = rectified(z[s]);
      }
    }
  }
}

namespace {

LMC_CLONES void accumulate_outputs(const float *weight, std::int64_t outputs, std::int64_t stride,
                                   const float *active, std::int64_t units, std::int64_t count,
                                   float *sums) {
  std::int64_t c = 0;
  for (; c + 4 <= outputs; c += 4) {
    accumulate<4, 2>(weight + c * stride, stride, active, units, count, sums + c * tile);
  }
  for (; c + 2 <= outputs; c += 2) {
    accumulate<2, 4>(weight + c * stride, stride, active, units, count, sums + c * tile);
  }
  if (c < outputs) {
    accumulate<1, 8>(weight + c * stride, stride, active, units, count, sums + c * tile);
  }
}

// One output of POINTS consecutive points between the same two networks: the rows are read once
// for all of them, and hidden activations stay in registers. `count` is a multiple of two vectors.
template <int POINTS>
LMC_INLINE void segment_output(const MixedLayer &layer, std::int64_t point, const float *weight,
                               const float *bias, std::int64_t sample, std::int64_t count,
                               float *out, std::int64_t out_stride) {
  constexpr int vectors = 2;
  const std::int64_t *networks = layer.networks + point * layer.terms;
  const float *shares = layer.shares + point * layer.terms;
  for (std::int64_t start = sample; start < sample + count; start += vectors * lanes) {
    Lanes total[POINTS][vectors];
    for (int p = 0; p < POINTS; ++p) {
      for (int v = 0; v < vectors; ++v) {
        total[p][v] = Lanes{} + bias[point + p];
      }
    }
    for (std::int64_t unit = 0; unit < layer.hidden; ++unit) {
      const float *const first = row_of(layer, networks[0], unit) + start;
      const float *const second = row_of(layer, networks[1], unit) + start;
      for (int v = 0; v < vectors; ++v) {
        const Lanes base = *reinterpret_cast<const Lanes *>(first + v * lanes);
        const Lanes difference = *reinterpret_cast<const Lanes *>(second + v * lanes) - base;
        for (int p = 0; p < POINTS; ++p) {
          const Lanes value = base + shares[2 * p + 1] * difference;
          const Lanes z = 0.0F > value ? Lanes{} : value;
          total[p][v] += weight[(point + p) * layer.hidden + unit] * z;
        }
      }
    }
    for (int p = 0; p < POINTS; ++p) {
      for (int v = 0; v < vectors; ++v) {
        *reinterpret_cast<Lanes *>(out + (point + p) * out_stride + start + v * lanes) =
            total[p][v];
      }
    }
  }
}

LMC_CLONES void segment_outputs(const MixedLayer &layer, std::int64_t first, std::int64_t last,
                                const float *weight, const float *bias, std::int64_t sample,
                                std::int64_t count, float *out, std::int64_t out_stride) {
  const auto *networks = layer.networks;
  while (first < last) {
    std::int64_t end = first + 1;
    while (end < last &&
           std::equal(networks + 2 * first, networks + 2 * first + 2, networks + 2 * end)) {
      ++end;
    }
    // Parts of nearly equal length: a part of one point would wait for its own sums.
    std::int64_t parts = (end - first + most_at_once - 1) / most_at_once;
    for (; parts > 0; --parts) {
      const std::int64_t points = (end - first + parts - 1) / parts;
      switch (points) {
      case 4:
        segment_output<4>(layer, first, weight, bias, sample, count, out, out_stride);
        break;
      case 3:
        segment_output<3>(layer, first, weight, bias, sample, count, out, out_stride);
        break;
      case 2:
        segment_output<2>(layer, first, weight, bias, sample, count, out, out_stride);
        break;
      default:
        segment_output<1>(layer, first, weight, bias, sample, count, out, out_stride);
      }
      first += points;
    }
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
                       const float *bias, float *out, std::int64_t out_stride, int threads) {
  const std::int64_t tiles = (layer.samples + tile - 1) / tile;
  const std::int64_t groups = (layer.points + points_per_piece - 1) / points_per_piece;
  // Neighbouring pieces share a tile of samples, whose rows stay in the cache.
  parallel_for(tiles * groups, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> active(static_cast<std::size_t>(block * tile));
    std::vector<float> sums(static_cast<std::size_t>(outputs * tile));
    std::vector<float> held;
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t sample = piece / groups * tile;
      const std::int64_t count = std::min(tile, layer.samples - sample);
      const std::int64_t first = piece % groups * points_per_piece;
      const std::int64_t last = std::min(layer.points, first + points_per_piece);
      // Rows lie a page or more apart: a tile of them is put together for many points to read.
      MixedLayer near = layer;
      std::int64_t at = sample;
      if (layer.row_count <= cached_rows &&
          (last - first) * layer.terms * layer.hidden >= 4 * layer.row_count) {
        held.resize(static_cast<std::size_t>(layer.row_count * tile));
        for (std::int64_t row = 0; row < layer.row_count; ++row) {
          std::copy_n(layer.rows + row * layer.samples + sample, count, held.data() + row * tile);
        }
        near.rows = held.data();
        near.samples = tile;
        at = 0;
      }
      // The rest of a tile that fills no pair of vectors goes the general way.
      const bool direct = outputs == 1 && layer.terms == 2 && layer.scale == nullptr;
      const std::int64_t done = direct ? count / (2 * lanes) * (2 * lanes) : 0;
      if (done > 0) {
        segment_outputs(near, first, last, weight, bias, at, done, out + sample - at, out_stride);
      }
      if (done == count) {
        continue;
      }
      for (std::int64_t point = first; point < last; ++point) {
        for (std::int64_t c = 0; c < outputs; ++c) {
          std::fill_n(sums.data() + c * tile, tile, bias[point * outputs + c]);
        }
        for (std::int64_t unit = 0; unit < layer.hidden; unit += block) {
          const std::int64_t units = std::min(block, layer.hidden - unit);
          activate(near, point, unit, units, at + done, count - done, true, active.data(), tile);
          accumulate_outputs(weight + point * outputs * layer.hidden + unit, outputs, layer.hidden,
                             active.data(), units, count - done, sums.data());
        }
        for (std::int64_t c = 0; c < outputs; ++c) {
          std::copy_n(sums.data() + c * tile, count - done,
                      out + point * out_stride + c * layer.samples + sample + done);
        }
      }
    }
  });
}

} // namespace lmc
