// The last layer of a network at many points in weight space, each with its own activations: ReLU,
// output layer, cross-entropy and argmax, in one reading of the activations.
//
// Parallel over: points, tiles of 256 samples (grid x, the tiles of a point side by side). A thread
// has two samples, whose activations no other thread needs: they go from memory to registers.
#pragma once

#include "interpolation_scores.cuh"

namespace lmc {

constexpr int head_samples = 2;  // of a thread
constexpr int head_depth = 64;   // hidden units of a stage of weights
constexpr int units_at_once = 8; // loads under way for each sample

struct HeadParams {
  Scoring scoring;
  const float *activations; // [points][hidden][samples]
  const float *weights;     // [points][classes][hidden]
  const float *biases;      // [points][classes]
  int rectify;              // whether a ReLU is left to do
};

struct HeadBlock {
  const HeadParams &params;
  const Scoring &scoring;
  float *weights; // [2][tile_classes][head_depth]
  const float *own_weights;
  const float *own_activations;
  int point;
  Int64 first_sample;

  __device__ explicit HeadBlock(const HeadParams &given)
      : params(given), scoring(given.scoring), weights(reinterpret_cast<float *>(shared_memory())) {
    constexpr int tile = grid_threads * head_samples;
    const int tiles = (scoring.samples + tile - 1) / tile;
    point = int(blockIdx.x) / tiles;
    own_weights = given.weights + Int64(point) * scoring.classes * scoring.hidden;
    own_activations = given.activations + Int64(point) * scoring.hidden * scoring.samples;
    first_sample = Int64(int(blockIdx.x) % tiles) * tile + int(threadIdx.x);
  }

  __device__ Int64 sample_of(int s) const { return first_sample + s * grid_threads; }

  __device__ void fetch(int stage, int origin) {
    for (int i = int(threadIdx.x); i < tile_classes * head_depth; i += grid_threads) {
      const int label = origin + i / head_depth, unit = stage * head_depth + i % head_depth;
      const bool inside = label < scoring.classes && unit < scoring.hidden;
      const Int64 offset = inside ? Int64(label) * scoring.hidden + unit : 0;
      copy_async<4>(weights + stage % 2 * tile_classes * head_depth + i, own_weights + offset,
                    inside ? 4 : 0);
    }
    commit_copies();
  }

  __device__ void multiply(int stage, float (&logits)[head_samples][tile_classes]) const {
    const float *tile = weights + stage % 2 * tile_classes * head_depth;
    const int left = scoring.hidden - stage * head_depth;
#pragma unroll 1
    for (int first = 0; first < head_depth && first < left; first += units_at_once) {
      float value[head_samples][units_at_once];
#pragma unroll
      for (int s = 0; s < head_samples; ++s)
#pragma unroll
        for (int k = 0; k < units_at_once; ++k) {
          const Int64 unit = stage * head_depth + first + k;
          value[s][k] = first + k < left && sample_of(s) < scoring.samples
                            ? own_activations[unit * scoring.samples + sample_of(s)]
                            : 0.0f;
          value[s][k] = params.rectify ? relu(value[s][k]) : value[s][k];
        }
#pragma unroll
      for (int c = 0; c < tile_classes; ++c)
#pragma unroll
        for (int k = 0; k < units_at_once; k += 4) {
          const Float4 w = load4(tile + c * head_depth + first + k);
#pragma unroll
          for (int s = 0; s < head_samples; ++s)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              logits[s][c] = fmaf(value[s][k + e], w.at[e], logits[s][c]);
        }
    }
  }

  __device__ void run() {
    const int stages = (scoring.hidden + head_depth - 1) / head_depth;
    Int64 target[head_samples];
    RunningSoftmax softmax[head_samples];
#pragma unroll
    for (int s = 0; s < head_samples; ++s) {
      target[s] = scoring.target_of(sample_of(s));
      softmax[s] = RunningSoftmax::empty();
    }
#pragma unroll 1
    for (int origin = 0; origin < scoring.classes; origin += tile_classes) {
      float logits[head_samples][tile_classes] = {};
      barrier();
      fetch(0, origin);
#pragma unroll 1
      for (int stage = 0; stage < stages; ++stage) {
        wait_copies<0>();
        barrier();
        if (stage + 1 < stages)
          fetch(stage + 1, origin);
        multiply(stage, logits);
      }
#pragma unroll
      for (int c = 0; c < tile_classes; ++c) {
        if (origin + c >= scoring.classes)
          break;
        const float bias = params.biases[Int64(point) * scoring.classes + origin + c];
#pragma unroll
        for (int s = 0; s < head_samples; ++s)
          softmax[s].add(logits[s][c] + bias, origin + c, target[s]);
      }
    }
#pragma unroll
    for (int s = 0; s < head_samples; ++s)
      softmax[s].write(scoring, point, sample_of(s), target[s]);
  }
};

} // namespace lmc
