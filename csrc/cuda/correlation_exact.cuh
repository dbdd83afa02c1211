// The products of one tile in float64, on the tensor cores' double-precision products.
//
// Every element is shifted by the provisional mean and multiplied as it is: nothing is scaled,
// split or promoted. Rows go through registers into two buffers of shared memory in turn.
#pragma once

#include "correlation_layers.cuh"

namespace lmc {

// A block of 256 threads over a tile of Size x Size outputs, 32 x 16 to a warp; warps beyond those
// share the rows of a stage.
template <int Size> struct ExactTile {
  static constexpr int warp_rows = 32, warp_columns = 16;
  static constexpr int row_groups = threads / 32 / ((Size / warp_rows) * (Size / warp_columns));
  static constexpr int depth = 1024 / Size; // rows of a stage
  static constexpr int elements = Size * depth / threads;
  static constexpr int pitch = Size + 4; // of [depth][Size]: 4 rows of 4 channels fill the banks
  static constexpr int blocks_m = warp_rows / 8, blocks_n = warp_columns / 8;
  static_assert(elements == 4 && depth % (4 * row_groups) == 0);
};

template <int Size> struct ExactProduct {
  using T = ExactTile<Size>;

  const Layer &layer;
  const Place &place;
  double *tiles; // [2 buffers][2 sides][depth][pitch]
  double loaded[2][T::elements];
  double sum[2][T::elements], squares[2][T::elements];
  double total[T::blocks_m][T::blocks_n][2];

  __device__ ExactProduct(const Layer &owner, const Place &where)
      : layer(owner), place(where), tiles(reinterpret_cast<double *>(scratch())), loaded{}, sum{},
        squares{}, total{} {}

  // Where in a stage a thread's element lies. Neighbours are neighbours in memory.
  __device__ int row_of(int index) const {
    const int t = int(threadIdx.x);
    return layer.spatial ? t % T::depth : t / Size + index * (threads / Size);
  }
  __device__ int channel_of(int index) const {
    const int t = int(threadIdx.x);
    return layer.spatial ? t / T::depth + index * (threads / T::depth) : t % Size;
  }

  __device__ double *tile(int stage, int side) const {
    return tiles + (stage % 2 * 2 + side) * T::depth * T::pitch;
  }

  __device__ void load(int stage) {
    const UInt32 first = place.begin + UInt32(stage) * T::depth;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Operand &operand = layer.operands[side];
#pragma unroll
      for (int index = 0; index < T::elements; ++index) {
        const UInt32 row = first + UInt32(row_of(index));
        const int channel = (side ? place.n : place.m) + channel_of(index);
        const bool inside = row < place.end && channel < operand.channels;
        const Int64 offset = inside ? element_offset(operand, layer.spatial, row, channel) : 0;
        loaded[side][index] = !inside ? 0.0
                              : layer.type == float64
                                  ? static_cast<const double *>(operand.data)[offset]
                                  : double(element(operand.data, layer.type, offset));
        if (inside)
          loaded[side][index] -= double(operand.normaliser[channel]);
      }
    }
  }

  __device__ void store(int stage) {
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int index = 0; index < T::elements; ++index) {
        const double value = loaded[side][index];
        tile(stage, side)[row_of(index) * T::pitch + channel_of(index)] = value;
        if (owns_statistics(place, side)) {
          sum[side][index] += value;
          squares[side][index] += value * value;
        }
      }
  }

  // A warp's part of the tile: first channel of either side, and its row group.
  struct Part {
    int m, n, group;
  };
  __device__ static Part part_of_warp() {
    const int warp = int(threadIdx.x) / 32;
    const int within = warp / T::row_groups;
    return {within % (Size / T::warp_rows) * T::warp_rows,
            within / (Size / T::warp_rows) * T::warp_columns, warp % T::row_groups};
  }

  __device__ void multiply(int stage) {
    const Part part = part_of_warp();
    const int lane = int(threadIdx.x) % 32;
    constexpr int rows = T::depth / T::row_groups;
#pragma unroll
    for (int step = 0; step < rows; step += 4) {
      const int at = (part.group * rows + step + lane % 4) * T::pitch + lane / 4;
      double left[T::blocks_m], right[T::blocks_n];
#pragma unroll
      for (int i = 0; i < T::blocks_m; ++i)
        left[i] = tile(stage, 0)[at + part.m + 8 * i];
#pragma unroll
      for (int j = 0; j < T::blocks_n; ++j)
        right[j] = tile(stage, 1)[at + part.n + 8 * j];
#pragma unroll
      for (int i = 0; i < T::blocks_m; ++i)
#pragma unroll
        for (int j = 0; j < T::blocks_n; ++j)
          multiply_add(total[i][j], left[i], right[j]);
    }
  }

  __device__ void run() {
    const int count = int((place.end - place.begin + T::depth - 1) / T::depth);
    load(0);
    store(0);
    barrier();
#pragma unroll 1
    for (int stage = 0; stage < count; ++stage) {
      if (stage + 1 < count)
        load(stage + 1);
      multiply(stage);
      if (stage + 1 < count)
        store(stage + 1);
      barrier();
    }
  }

  // The tile's totals: the row groups' parts meet in shared memory and are added in order.
  __device__ void write_product(double *out) {
    const Part part = part_of_warp();
    const int lane = int(threadIdx.x) % 32;
    double *target = T::row_groups == 1 ? out : tiles + part.group * Size * Size;
#pragma unroll
    for (int i = 0; i < T::blocks_m; ++i)
#pragma unroll
      for (int j = 0; j < T::blocks_n; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          target[(part.m + 8 * i + lane / 4) * Size + part.n + 8 * j + lane % 4 * 2 + e] =
              total[i][j][e];
    if constexpr (T::row_groups > 1) {
      barrier();
      for (int i = int(threadIdx.x); i < Size * Size; i += threads) {
        double value = tiles[i];
        for (int g = 1; g < T::row_groups; ++g)
          value += tiles[g * Size * Size + i];
        out[i] = value;
      }
    }
    barrier();
  }

  // The column sums: the parts of a channel, one for every row of a stage, meet in shared memory.
  __device__ void write_statistics(double *out, int side) {
#pragma unroll
    for (int index = 0; index < T::elements; ++index) {
      tiles[channel_of(index) * T::depth + row_of(index)] = sum[side][index];
      tiles[(Size + channel_of(index)) * T::depth + row_of(index)] = squares[side][index];
    }
    barrier();
    const int channels = layer.operands[side].channels;
    for (int i = int(threadIdx.x); i < 2 * Size; i += threads) {
      const int channel = (side ? place.n : place.m) + i % Size;
      double value = 0.0;
      for (int row = 0; row < T::depth; ++row)
        value += tiles[i * T::depth + row];
      if (channel < channels)
        out[i / Size * channels + channel] = value;
    }
    barrier();
  }
};

template <int Size> __device__ inline void correlate_exactly(const Layer &layer) {
  const int block = int(blockIdx.x) - layer.first_block;
  if (threadIdx.x == 0)
    shared_place() = place_of(layer, block);
  barrier();
  ExactProduct<Size> tile(layer, shared_place());
  tile.run();
  tile.write_product(product_of<double>(layer, block));
#pragma unroll
  for (int side = 0; side < 2; ++side)
    if (owns_statistics(tile.place, side))
      tile.write_statistics(statistics_of<double>(layer, side, tile.place.slab), side);
}

} // namespace lmc
