// Cross moments of two activation matrices, sum over rows r of (x[r,i] - a[i]) (y[r,j] - b[j]), and
// both sides' column sums, for all layers of a network in one launch.
//
// Kernel parameters hold 28 layers at most, so the layers lie in a table in device memory, which
// small launches fill from their parameters: no copy from the host, which a graph could not hold.
//
// Nothing here is atomic except the status bits: the partial sums of every slab of rows go to a
// workspace and a second kernel adds them in order, so a result does not depend on the schedule.
#include "correlation_exact.cuh"
#include "correlation_tile.cuh"

namespace lmc {

constexpr float largest_half = 65504.0f;

extern "C" __global__ void
correlation_describe(const __grid_constant__ LayerDescription description) {
  const int i = int(threadIdx.x);
  if (i < description.count)
    description.to[i] = description.layer[i];
}

// Shift and scale of every channel from at most 512 rows spread over the input. One warp to a
// channel. A power of two keeps the scaling exact; four bits above the standard deviation leave
// room for values 4000 standard deviations away and keep the lower half's last bit 2^-28 below it.
extern "C" __global__ void __launch_bounds__(threads)
    correlation_prepare(const __grid_constant__ LayerTable table) {
  const Layer &layer = find_layer<&Layer::first_block>(table);
  const int lane = threadIdx.x % 32;
  int channel = (int(blockIdx.x) - layer.first_block) * (threads / 32) + threadIdx.x / 32;
  const int side = channel >= layer.operands[0].channels;
  const Operand &operand = layer.operands[side];
  channel -= side * layer.operands[0].channels;
  if (channel >= operand.channels)
    return; // the whole warp, past the last channel

  const int samples = layer.rows < 512 ? layer.rows : 512;
  const int step = layer.rows / samples;
  float sum = 0.0f;
  for (int s = lane; s < samples; s += 32)
    sum += element(operand.data, layer.type,
                   element_offset(operand, layer.spatial, UInt32(s * step), channel));
  for (int mask = 16; mask > 0; mask /= 2)
    sum += shuffle_xor(sum, mask);
  const float mean = sum / float(samples);
  float squares = 0.0f;
  for (int s = lane; s < samples; s += 32) {
    const float deviation =
        element(operand.data, layer.type,
                element_offset(operand, layer.spatial, UInt32(s * step), channel)) -
        mean;
    squares += deviation * deviation;
  }
  for (int mask = 16; mask > 0; mask /= 2)
    squares += shuffle_xor(squares, mask);
  if (lane != 0)
    return;
  const float variance = squares / float(samples);
  const bool usable = variance - variance == 0.0f; // neither infinite nor NaN
  // A constant channel may come to life later: its mean, else 1, stands in for its deviation.
  const float spread = variance > 0.0f ? variance : mean != 0.0f ? mean * mean : 1.0f;
  int exponent = (int((float_to_bits(spread) >> 23) & 255u) - 127) / 2;
  exponent = exponent > 60 ? 60 : exponent < -60 ? -60 : exponent;
  operand.normaliser[channel] = usable ? mean : 0.0f;
  operand.normaliser[operand.channels + channel] =
      usable ? bits_to_float(UInt32(127 + 4 - exponent) << 23) : 1.0f;
}

template <int Size, bool Split, bool Planar>
__device__ inline void correlate_tile(const Layer &layer) {
  const int block = int(blockIdx.x) - layer.first_block;
  if (threadIdx.x == 0)
    shared_place() = place_of(layer, block);
  barrier();
  TileProduct<Size, Split, Planar> tile(layer, shared_place());
  tile.run();
  tile.write_product(product_of<float>(layer, block));
#pragma unroll
  for (int side = 0; side < 2; ++side)
    if (owns_statistics(tile.place, side))
      tile.write_statistics(statistics_of<float>(layer, side, tile.place.slab), side);
  if (tile.largest > largest_half)
    atomic_or(layer.status, overflow);
}

template <int Size, bool Split> __device__ inline void correlate_layer(const Layer &layer) {
  if (layer.spatial == 0)
    correlate_tile<Size, Split, false>(layer);
  else
    correlate_tile<Size, Split, true>(layer);
}

// Layers of any tile size up to Largest. Narrow ones are bound by memory: fast mode would gain
// nothing by rounding them.
template <int Largest, bool Split> __device__ inline void correlate(const LayerTable &table) {
  const Layer &layer = find_layer<&Layer::first_block>(table);
  if constexpr (Largest == 128)
    if (layer.tile == 128)
      return correlate_layer<128, Split>(layer);
  if (layer.tile == 64)
    return correlate_layer<64, true>(layer);
  correlate_layer<32, true>(layer);
}

// Of a power of two, exactly.
__device__ inline float inverse(float power) {
  return bits_to_float((254u << 23) - float_to_bits(power));
}

// What a channel's values were divided by.
template <class Value> __device__ inline double unit_of(const Operand &operand, int channel);
template <> __device__ inline double unit_of<float>(const Operand &operand, int channel) {
  return double(inverse(operand.normaliser[operand.channels + channel]));
}
template <> __device__ inline double unit_of<double>(const Operand &, int) { return 1.0; }

template <class Value> __device__ inline void reduce_tile(const Layer &layer) {
  const int p = layer.operands[0].channels, q = layer.operands[1].channels;
  const int size = layer.tile;
  const int tiles = tiles_of(layer);
  const int tile = int(blockIdx.x) - layer.first_tile;
  const Place place = place_of(layer, tile);
  for (int e = int(threadIdx.x); e < size * size; e += threads) {
    const int i = place.m + e / size, j = place.n + e % size;
    if (i >= p || j >= q)
      continue;
    double value = 0.0;
    for (int slab = 0; slab < layer.slabs; ++slab)
      value += double(product_of<Value>(layer, Int64(slab) * tiles + tile)[e]);
    value *= unit_of<Value>(layer.operands[0], i);
    value *= unit_of<Value>(layer.operands[1], j);
    layer.moments[Int64(i) * q + j] += value;
  }
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if (!owns_statistics(place, side))
      continue;
    const Operand &operand = layer.operands[side];
    for (int e = int(threadIdx.x); e < 2 * size; e += threads) {
      const int channel = (side ? place.n : place.m) + e % size, kind = e / size;
      if (channel >= operand.channels)
        continue;
      double value = 0.0;
      for (int slab = 0; slab < layer.slabs; ++slab)
        value += double(statistics_of<Value>(layer, side, slab)[kind * operand.channels + channel]);
      const double unit = unit_of<Value>(operand, channel);
      operand.sums[kind * operand.channels + channel] += value * (kind ? unit * unit : unit);
    }
  }
}

// Adds the slabs' partial results, in order, to the float64 accumulators. One block to a tile.
extern "C" __global__ void __launch_bounds__(threads)
    correlation_reduce(const __grid_constant__ LayerTable table) {
  const Layer &layer = find_layer<&Layer::first_tile>(table);
  if (layer.exact)
    reduce_tile<double>(layer);
  else
    reduce_tile<float>(layer);
}

// The products of float64 accuracy, for layers of tiles of 64 and 32 channels.
extern "C" __global__ void __launch_bounds__(threads, 2)
    correlation_exact(const __grid_constant__ LayerTable table) {
  const Layer &layer = find_layer<&Layer::first_block>(table);
  if (layer.tile == 64)
    correlate_exactly<64>(layer);
  else
    correlate_exactly<32>(layer);
}

extern "C" __global__ void __launch_bounds__(threads, 1)
    correlation_float32_128(const __grid_constant__ LayerTable table) {
  correlate<128, true>(table);
}

extern "C" __global__ void __launch_bounds__(threads, 2)
    correlation_float32_64(const __grid_constant__ LayerTable table) {
  correlate<64, true>(table);
}

extern "C" __global__ void __launch_bounds__(threads, 1)
    correlation_fast_128(const __grid_constant__ LayerTable table) {
  correlate<128, false>(table);
}

} // namespace lmc
