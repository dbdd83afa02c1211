// The last two layers of a ReLU network at many points in weight space, in one pass: mix the hidden
// pre-activations of up to three networks, ReLU, mix and apply the output layer, cross-entropy and
// argmax.
//
// A first layer is linear in the weights, so those of a mixed network are the same mixture of its
// networks' own pre-activations: two or three matrix products serve any number of points, and the
// mixed activations live in registers only.
//
// Parallel over: tiles of 128 samples (grid x), groups of 8 points (grid y), 2 points to a warp.
#include "interpolation_head.cuh"
#include "interpolation_scores.cuh"

namespace lmc {

constexpr int max_anchors = 3;
constexpr int samples_of_lane = 4;
constexpr int points_of_warp = 2;
constexpr int tile_samples = 32 * samples_of_lane;
constexpr int tile_points = grid_threads / 32 * points_of_warp;
constexpr int depth = 16;        // hidden units of a stage
constexpr int pitch = depth + 4; // floats of a row: neighbouring lanes meet different banks

struct GridParams {
  Scoring scoring;
  const float *preactivations[max_anchors]; // [samples][hidden]
  const float *weights[max_anchors];        // [classes][hidden]
  const float *biases[max_anchors];         // [classes]
  const float *shares;                      // [points][anchors]
  int aligned;                              // every row starts on a multiple of 16 bytes
};

template <int Anchors> struct GridBlock {
  const GridParams &params;
  const Scoring &scoring;
  float *tiles;   // [2][Anchors][tile_samples][pitch]
  float *weights; // [2][tile_points][tile_classes][depth]
  Int64 first_sample;
  int first_point;
  float share[points_of_warp][Anchors];

  __device__ explicit GridBlock(const GridParams &given)
      : params(given), scoring(given.scoring), tiles(reinterpret_cast<float *>(shared_memory())),
        weights(tiles + 2 * Anchors * tile_samples * pitch),
        first_sample(Int64(blockIdx.x) * tile_samples), first_point(int(blockIdx.y) * tile_points) {
#pragma unroll
    for (int p = 0; p < points_of_warp; ++p)
#pragma unroll
      for (int a = 0; a < Anchors; ++a)
        share[p][a] = share_of(int(threadIdx.x) / 32 * points_of_warp + p, a);
  }

  __device__ float share_of(int point, int anchor) const {
    const int k = first_point + point;
    return k < scoring.points ? params.shares[Int64(k) * Anchors + anchor] : 0.0f;
  }

  __device__ float *tile(int stage, int anchor) const {
    return tiles + (stage % 2 * Anchors + anchor) * tile_samples * pitch;
  }

  __device__ void fetch(int stage) {
    const int t = int(threadIdx.x);
    const int unit = stage * depth + t % (depth / 4) * 4;
    const int left = scoring.hidden - unit < 4 ? scoring.hidden - unit : 4;
#pragma unroll
    for (int a = 0; a < Anchors; ++a)
#pragma unroll
      for (int i = 0; i < tile_samples / (grid_threads / (depth / 4)); ++i) {
        const int row = t / (depth / 4) + i * (grid_threads / (depth / 4));
        const bool inside = first_sample + row < scoring.samples && left > 0;
        const float *from = params.preactivations[a];
        if (inside)
          from += (first_sample + row) * scoring.hidden + unit;
        float *to = tile(stage, a) + row * pitch + t % (depth / 4) * 4;
        if (params.aligned) {
          copy_async<16>(to, from, inside ? left * 4 : 0);
          continue;
        }
#pragma unroll
        for (int e = 0; e < 4; ++e)
          copy_async<4>(to + e, inside && e < left ? from + e : from, inside && e < left ? 4 : 0);
      }
    commit_copies();
  }

  // The output layer of all points of the block, for the classes from `origin` on.
  __device__ void mix_weights(int stage, int origin) {
    for (int i = int(threadIdx.x); i < tile_classes * depth; i += grid_threads) {
      const int label = origin + i / depth, unit = stage * depth + i % depth;
      float value[Anchors];
#pragma unroll
      for (int a = 0; a < Anchors; ++a)
        value[a] = label < scoring.classes && unit < scoring.hidden
                       ? params.weights[a][Int64(label) * scoring.hidden + unit]
                       : 0.0f;
      for (int p = 0; p < tile_points; ++p) {
        float mixed = 0.0f;
#pragma unroll
        for (int a = 0; a < Anchors; ++a)
          mixed = fmaf(share_of(p, a), value[a], mixed);
        weights[(stage % 2 * tile_points + p) * tile_classes * depth + i] = mixed;
      }
    }
  }

  __device__ void multiply(int stage,
                           float (&logits)[points_of_warp][samples_of_lane][tile_classes]) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll 1
    for (int unit = 0; unit < depth; unit += 4) {
      Float4 hidden[Anchors][samples_of_lane];
#pragma unroll
      for (int a = 0; a < Anchors; ++a)
#pragma unroll
        for (int s = 0; s < samples_of_lane; ++s)
          hidden[a][s] = load4(tile(stage, a) + (lane + 32 * s) * pitch + unit);
#pragma unroll
      for (int p = 0; p < points_of_warp; ++p) {
        float mixed[samples_of_lane][4];
#pragma unroll
        for (int s = 0; s < samples_of_lane; ++s)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float value = 0.0f;
#pragma unroll
            for (int a = 0; a < Anchors; ++a)
              value = fmaf(share[p][a], hidden[a][s].at[e], value);
            mixed[s][e] = relu(value);
          }
        const int point = stage % 2 * tile_points + warp * points_of_warp + p;
#pragma unroll
        for (int c = 0; c < tile_classes; ++c) {
          const Float4 w = load4(weights + (point * tile_classes + c) * depth + unit);
#pragma unroll
          for (int s = 0; s < samples_of_lane; ++s)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              logits[p][s][c] = fmaf(mixed[s][e], w.at[e], logits[p][s][c]);
        }
      }
    }
  }

  __device__ float bias_of(int p, int label) const {
    float mixed = 0.0f;
#pragma unroll
    for (int a = 0; a < Anchors; ++a)
      mixed = fmaf(share[p][a], params.biases[a][label], mixed);
    return mixed;
  }

  __device__ void run() {
    const int lane = int(threadIdx.x) % 32;
    const int warp_point = first_point + int(threadIdx.x) / 32 * points_of_warp;
    const int stages = (scoring.hidden + depth - 1) / depth;
    Int64 target[samples_of_lane];
    RunningSoftmax softmax[points_of_warp][samples_of_lane];
#pragma unroll
    for (int s = 0; s < samples_of_lane; ++s) {
      target[s] = scoring.target_of(first_sample + lane + 32 * s);
#pragma unroll
      for (int p = 0; p < points_of_warp; ++p)
        softmax[p][s] = RunningSoftmax::empty();
    }
#pragma unroll 1
    for (int origin = 0; origin < scoring.classes; origin += tile_classes) {
      float logits[points_of_warp][samples_of_lane][tile_classes] = {};
      barrier();
      fetch(0);
      mix_weights(0, origin);
#pragma unroll 1
      for (int stage = 0; stage < stages; ++stage) {
        wait_copies<0>();
        barrier();
        if (stage + 1 < stages) {
          fetch(stage + 1);
          mix_weights(stage + 1, origin);
        }
        if (warp_point < scoring.points)
          multiply(stage, logits);
      }
#pragma unroll
      for (int c = 0; c < tile_classes; ++c) {
        if (origin + c >= scoring.classes)
          break;
#pragma unroll
        for (int p = 0; p < points_of_warp; ++p) {
          const float bias = bias_of(p, origin + c);
#pragma unroll
          for (int s = 0; s < samples_of_lane; ++s)
            softmax[p][s].add(logits[p][s][c] + bias, origin + c, target[s]);
        }
      }
    }
#pragma unroll
    for (int p = 0; p < points_of_warp; ++p)
#pragma unroll
      for (int s = 0; s < samples_of_lane; ++s)
        softmax[p][s].write(scoring, warp_point + p, first_sample + lane + 32 * s, target[s]);
  }
};

extern "C" __global__ void __launch_bounds__(grid_threads)
    interpolation_grid_2(const __grid_constant__ GridParams params) {
  GridBlock<2>(params).run();
}

extern "C" __global__ void __launch_bounds__(grid_threads)
    interpolation_grid_3(const __grid_constant__ GridParams params) {
  GridBlock<3>(params).run();
}

extern "C" __global__ void __launch_bounds__(grid_threads)
    interpolation_head(const __grid_constant__ HeadParams params) {
  HeadBlock(params).run();
}

} // namespace lmc
