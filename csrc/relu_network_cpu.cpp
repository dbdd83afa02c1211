#include "relu_network_cpu.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "relu_network_pack.hpp"
#include "simd.hpp"

#if defined(LMC_X86)
#include <immintrin.h>
#endif

namespace lmc {

namespace {

constexpr std::int64_t depth = 64;            // inputs of a block of weights: the bits of a word
constexpr std::int64_t rows_step = 12;        // a multiple of every tile's rows
constexpr std::int64_t most_rows = 120;       // examples that go through all layers together
constexpr std::int64_t cached_floats = 65536; // activations of one layer that stay in the cache
constexpr std::int64_t mixed_units_step = 16; // units of the first layer mixed at a time
constexpr std::int64_t task_samples = 2048;   // examples that share packed weights
constexpr std::int64_t line = 64;

// Activations of some examples, one after the other, and which of them count.
struct Activations {
  std::int64_t rows, stride; // a multiple of `depth`
  float *values;
  std::uint64_t *active; // a bit for each value

  [[nodiscard]] std::int64_t words() const { return stride / depth; }
};

// The ReLU of `count` words of values, and a bit for each that is not zero. A NaN stays one.
LMC_INLINE void rectify_words(float *values, std::int64_t count, std::uint64_t *active) {
  for (std::int64_t w = 0; w < count; ++w) {
    std::uint64_t bits = 0;
    for (std::int64_t i = 0; i < depth; ++i) {
      float &z = values[w * depth + i];
      z = 0.0F > z ? 0.0F : z;
      bits |= static_cast<std::uint64_t>(z != 0.0F) << i;
    }
    active[w] = bits;
  }
}

#if defined(LMC_X86)
__attribute__((target("avx2"))) void rectify_words_wide(float *values, std::int64_t count,
                                                        std::uint64_t *active) {
  const __m256 zero = _mm256_setzero_ps();
  for (std::int64_t w = 0; w < count; ++w) {
    std::uint64_t bits = 0;
    for (int i = 0; i < depth; i += 8) {
      float *const at = values + w * depth + i;
      // Of two operands one of which is NaN, max returns the second.
      const __m256 z = _mm256_max_ps(zero, _mm256_loadu_ps(at));
      _mm256_storeu_ps(at, z);
      const int nonzero = _mm256_movemask_ps(_mm256_cmp_ps(z, zero, _CMP_NEQ_UQ));
      bits |= static_cast<std::uint64_t>(static_cast<unsigned>(nonzero)) << i;
    }
    active[w] = bits;
  }
}
#endif

// Makes pre-activations ready for a layer: `units` of every row below `rows`, none of the others.
template <bool WIDE>
LMC_INLINE void rectify(const Activations &z, std::int64_t rows, std::int64_t units,
                        bool skip_zeros) {
  const std::int64_t used = (units + depth - 1) / depth;
  const std::uint64_t last = ~std::uint64_t{0} >> (used * depth - units);
  for (std::int64_t row = 0; row < z.rows; ++row) {
    std::uint64_t *const active = z.active + row * z.words();
    if (row >= rows) {
      std::fill_n(active, used, std::uint64_t{0});
      continue;
    }
#if defined(LMC_X86)
    if constexpr (WIDE) {
      rectify_words_wide(z.values + row * z.stride, used, active);
    } else {
      rectify_words(z.values + row * z.stride, used, active);
    }
#else
    rectify_words(z.values + row * z.stride, used, active);
#endif
    if (!skip_zeros) {
      std::fill_n(active, used, ~std::uint64_t{0});
    }
    active[used - 1] &= last;
  }
}

// One block of inputs times one panel, added to the outputs of every example: a tile of ROWS
// examples skips the inputs that are zero for all of them.
template <class Shape, int VECTORS>
LMC_INLINE void add_block(const Activations &z, std::int64_t block, const float *weights,
                          const float *from, std::int64_t from_stride, float *to) {
  using Vector = typename Shape::Vector;
  constexpr int rows = Shape::rows(VECTORS);
  const std::int64_t words = z.words();
  for (std::int64_t row = 0; row < z.rows; row += rows) {
    Vector total[rows][VECTORS];
    std::uint64_t active = 0;
    for (int r = 0; r < rows; ++r) {
      active |= z.active[(row + r) * words + block];
      for (int v = 0; v < VECTORS; ++v) {
        total[r][v] =
            *reinterpret_cast<const Vector *>(from + (row + r) * from_stride + v * Shape::lanes);
      }
    }
    const float *const values = z.values + row * z.stride + block * depth;
    // The next tile's numbers, which hardware does not foresee.
    for (int r = rows; r < 2 * rows; ++r) {
      for (int v = 0; v < VECTORS; v += line / (4 * Shape::lanes)) {
        __builtin_prefetch(to + (row + r) * z.stride + v * Shape::lanes, 1);
      }
      for (std::int64_t i = 0; i < depth; i += line / 4) {
        __builtin_prefetch(values + r * z.stride + i);
      }
    }
    while (active != 0) {
      const int k = std::countr_zero(active);
      active &= active - 1;
      const float *const w = weights + k * VECTORS * Shape::lanes;
      // The fewer of the two kinds of operand stay in registers.
      if constexpr (rows > VECTORS) {
        Vector weight[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
          weight[v] = *reinterpret_cast<const Vector *>(w + v * Shape::lanes);
        }
        for (int r = 0; r < rows; ++r) {
          for (int v = 0; v < VECTORS; ++v) {
            total[r][v] += values[r * z.stride + k] * weight[v];
          }
        }
      } else {
        for (int v = 0; v < VECTORS; ++v) {
          const Vector weight = *reinterpret_cast<const Vector *>(w + v * Shape::lanes);
          for (int r = 0; r < rows; ++r) {
            total[r][v] += values[r * z.stride + k] * weight;
          }
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < VECTORS; ++v) {
        *reinterpret_cast<Vector *>(to + (row + r) * z.stride + v * Shape::lanes) = total[r][v];
      }
    }
  }
}

template <class Shape, int VECTORS = Shape::widest>
LMC_INLINE void add_panel(std::int64_t vectors, const Activations &z, const PackedLayer &layer,
                          std::int64_t begin, float *to) {
  if constexpr (VECTORS > 0) {
    if (vectors != VECTORS) {
      add_panel<Shape, VECTORS - 1>(vectors, z, layer, begin, to);
      return;
    }
    constexpr std::int64_t width = VECTORS * Shape::lanes;
    const float *const panel = layer.weights + begin * rounded_up(layer.inputs, 8);
    for (std::int64_t block = 0; block * depth < layer.inputs; ++block) {
      const bool first = block == 0;
      add_block<Shape, VECTORS>(z, block, panel + block * depth * width,
                                first ? layer.bias + begin : to + begin, first ? 0 : z.stride,
                                to + begin);
    }
  }
}

// The first layer's pre-activations of `rows` examples.
LMC_INLINE void mix_first(const MixedLayer &first, std::int64_t point, std::int64_t sample,
                          std::int64_t rows, float *tile, const Activations &z) {
  for (std::int64_t unit = 0; unit < first.hidden; unit += mixed_units_step) {
    const std::int64_t units = std::min(mixed_units_step, first.hidden - unit);
    activate(first, point, unit, units, sample, rows, false, tile, most_rows);
    for (std::int64_t u = 0; u < units; u += 8) {
      for (std::int64_t row = 0; row < rows; row += 8) {
        Floats x[8];
        for (int i = 0; i < 8; ++i) {
          x[i] = load(tile + (u + i) * most_rows + row);
        }
        transpose(x);
        for (std::int64_t i = 0; i < std::min<std::int64_t>(8, rows - row); ++i) {
          store(z.values + (row + i) * z.stride + unit + u) = x[i];
        }
      }
    }
  }
}

// Numbers from one example's activations to the next, examples at a time, and numbers packed.
struct Sizes {
  std::int64_t stride, rows, packed;
};

Sizes sizes_of(const std::vector<std::int64_t> &units) {
  std::int64_t packed = line;
  for (std::size_t i = 1; i < units.size(); ++i) {
    packed += rounded_up(units[i], 16) * (rounded_up(units[i - 1], 8) + 1);
  }
  const std::int64_t stride = rounded_up(*std::max_element(units.begin(), units.end()), depth);
  const std::int64_t rows = std::clamp(cached_floats / stride, rows_step, most_rows);
  return {stride, rows / rows_step * rows_step, packed};
}

// `sample_end - sample` examples at one point.
struct Piece {
  std::int64_t point, sample, sample_end;
};

template <class Shape, bool WIDE>
LMC_INLINE bool run_piece(const MixedLayer &first, const std::vector<MixedLinear> &layers,
                          const Piece &piece, float *out,
                          const std::function<bool()> &interrupted) {
  std::vector<std::int64_t> units{first.hidden};
  for (const MixedLinear &layer : layers) {
    units.push_back(layer.outputs);
  }
  const Sizes sizes = sizes_of(units);
  const std::int64_t floats = sizes.rows * sizes.stride;
  const auto storage =
      std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(sizes.packed));
  std::vector<float> values(static_cast<std::size_t>(2 * floats + line));
  std::vector<std::uint64_t> active(static_cast<std::size_t>(floats / depth));
  std::vector<float> tile(static_cast<std::size_t>(mixed_units_step * most_rows + 8));
  const auto aligned = [](float *at) {
    return at + (line - reinterpret_cast<std::uintptr_t>(at) % line) % line / sizeof(float);
  };
  std::vector<PackedLayer> packed;
  float *weights = aligned(storage.get());
  for (const MixedLinear &layer : layers) {
    const std::vector<std::int64_t> panels = panels_of<Shape>(layer.outputs);
    const std::int64_t width = panels.back() * Shape::lanes;
    float *const bias = weights + width * rounded_up(layer.inputs, 8);
    packed.push_back({layer.inputs, layer.outputs, panels, weights, bias, true});
    pack<Shape>(first, layer, piece.point, packed.back());
    weights = bias + rounded_up(width, 16);
  }
  Activations z{sizes.rows, sizes.stride, aligned(values.data()), active.data()};
  Activations next = z;
  next.values += floats;
  for (std::int64_t sample = piece.sample; sample < piece.sample_end; sample += sizes.rows) {
    if (interrupted()) {
      return false;
    }
    const std::int64_t count = std::min(sizes.rows, piece.sample_end - sample);
    z.rows = next.rows = rounded_up(count, rows_step);
    mix_first(first, piece.point, sample, count, tile.data(), z);
    for (const PackedLayer &layer : packed) {
      rectify<WIDE>(z, count, layer.inputs, layer.finite);
      for (std::size_t p = 0; p + 1 < layer.panels.size(); ++p) {
        add_panel<Shape>(layer.panels[p + 1] - layer.panels[p], z, layer,
                         layer.panels[p] * Shape::lanes, next.values);
      }
      std::swap(z.values, next.values);
    }
    for (std::int64_t c = 0; c < layers.back().outputs; ++c) {
      for (std::int64_t s = 0; s < count; ++s) {
        out[c * first.samples + sample + s] = z.values[s * z.stride + c];
      }
    }
  }
  return true;
}

using Worker = bool (*)(const MixedLayer &, const std::vector<MixedLinear> &, const Piece &,
                        float *, const std::function<bool()> &);

bool with_baseline(const MixedLayer &first, const std::vector<MixedLinear> &layers,
                   const Piece &piece, float *out, const std::function<bool()> &interrupted) {
  return run_piece<Tile<32, 6>, false>(first, layers, piece, out, interrupted);
}

#if defined(LMC_X86)
__attribute__((target("avx2,fma"))) bool with_avx2(const MixedLayer &first,
                                                   const std::vector<MixedLinear> &layers,
                                                   const Piece &piece, float *out,
                                                   const std::function<bool()> &interrupted) {
  return run_piece<Tile<32, 12>, true>(first, layers, piece, out, interrupted);
}

__attribute__((target("avx512f,avx2,fma"))) bool
with_avx512(const MixedLayer &first, const std::vector<MixedLinear> &layers, const Piece &piece,
            float *out, const std::function<bool()> &interrupted) {
  return run_piece<Tile<64, 8>, true>(first, layers, piece, out, interrupted);
}
#endif

constexpr Worker workers[] = {
    with_baseline,
#if defined(LMC_X86)
    with_avx2,
    with_avx512,
#endif
};

} // namespace

std::int64_t relu_network_bytes(const std::vector<std::int64_t> &units) {
  const Sizes sizes = sizes_of(units);
  return 4 * (sizes.packed + 3 * sizes.rows * sizes.stride + mixed_units_step * most_rows + line);
}

bool mixed_relu_network(const MixedLayer &first, const std::vector<MixedLinear> &layers, float *out,
                        std::int64_t out_stride, int instruction_set, int threads,
                        const std::function<bool()> &interrupted) {
  if (first.points == 0 || first.samples == 0) {
    return true;
  }
  const std::int64_t parts = std::max((first.samples + task_samples - 1) / task_samples,
                                      (4 * threads + first.points - 1) / first.points);
  const std::int64_t step = rounded_up((first.samples + parts - 1) / parts, most_rows);
  const std::int64_t per_point = (first.samples + step - 1) / step;
  const Worker work = variant(workers, instruction_set);
  std::atomic<bool> complete{true};
  parallel_for(first.points * per_point, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end && complete; ++i) {
      const std::int64_t sample = i % per_point * step;
      const Piece piece{i / per_point, sample, std::min(sample + step, first.samples)};
      if (!work(first, layers, piece, out + piece.point * out_stride, interrupted)) {
        complete = false;
      }
    }
  });
  return complete;
}

} // namespace lmc
