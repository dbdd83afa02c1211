// The layers of a launch: where their data lie, and which block works on what.
#pragma once

#include "primitives.cuh"

namespace lmc {

constexpr int described = 28; // layers to a description: what fits into 4 kB of parameters
constexpr int threads = 256;

enum ElementType : int { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };
enum Status : int { overflow = 1 };

// One side of a layer. Row r of channel c is data[r * stride + c] when `spatial` is 0 (row-major,
// or channels last), and data[(r / spatial) * stride + c * spatial + r % spatial] otherwise (NCHW).
struct Operand {
  const void *data;
  float *normaliser; // [2][channels]: shift, scale
  double *sums;      // [2][channels]: sum and sum of squares of the shifted values, added to
  Int64 stride;
  int channels;
  int aligned; // every chunk starts on a multiple of its own size
};

struct alignas(16) Layer {
  Operand operands[2];
  double *moments; // [p][q], added to
  int *status;
  void *workspace; // [slabs][tiles][tile * tile], then [slabs][2][p], then [slabs][2][q]
  int rows;
  int spatial;
  int slab_rows; // a multiple of 128
  int slabs;
  int tile; // 128, 64 or 32 channels of either side
  ElementType type;
  int first_block; // of the products, or of the preparation
  int first_tile;  // of the reduction
  int exact;       // the workspace holds doubles, of values that were not scaled
};

struct LayerTable {
  const Layer *layers; // first blocks and first tiles ascend
  int count;
};

struct LayerDescription {
  Layer *to;
  int count;
  Layer layer[described];
};

static_assert(sizeof(LayerDescription) <= 4096);

// The layer that this block belongs to, copied to the start of shared memory.
template <int Layer::*First> __device__ inline const Layer &find_layer(const LayerTable &table) {
  auto *found = reinterpret_cast<Layer *>(shared_memory());
  const int block = int(blockIdx.x);
  for (int i = int(threadIdx.x); i < table.count; i += threads)
    if (table.layers[i].*First <= block &&
        (i + 1 == table.count || block < table.layers[i + 1].*First))
      *found = table.layers[i];
  barrier();
  return *found;
}

__device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Of the first channel's element.
__device__ inline Int64 row_offset(const Operand &operand, int spatial, UInt32 row) {
  if (spatial == 0)
    return Int64(row) * operand.stride;
  const UInt32 image = row / UInt32(spatial);
  return Int64(image) * operand.stride + (row - image * UInt32(spatial));
}

__device__ inline Int64 channel_offset(int spatial, int channel) {
  return Int64(channel) * (spatial == 0 ? 1 : spatial);
}

__device__ inline Int64 element_offset(const Operand &operand, int spatial, UInt32 row,
                                       int channel) {
  return row_offset(operand, spatial, row) + channel_offset(spatial, channel);
}

__device__ inline float element(const void *data, ElementType type, Int64 offset) {
  if (type == float32)
    return static_cast<const float *>(data)[offset];
  if (type == float64)
    return float(static_cast<const double *>(data)[offset]);
  const UInt16 bits = static_cast<const UInt16 *>(data)[offset];
  return type == float16 ? half_to_float(bits) : bits_to_float(UInt32(bits) << 16);
}

// Where a tile lies and what it covers.
struct alignas(16) Place {
  int m, n; // first channel of either side
  int slab;
  UInt32 begin; // rows
  UInt32 end;
};

__device__ inline Place place_of(const Layer &layer, int block) {
  const int tiles_m = ceil_div(layer.operands[0].channels, layer.tile);
  const int tiles_n = ceil_div(layer.operands[1].channels, layer.tile);
  const int tiles = tiles_m * tiles_n;
  Place place;
  place.slab = block / tiles;
  const int tile = block - place.slab * tiles;
  // Columns of eight tiles: blocks that run together share their inputs in the second-level cache.
  const int group = tile / (8 * tiles_n);
  const int height = tiles_m - group * 8 < 8 ? tiles_m - group * 8 : 8;
  const int within = tile - group * 8 * tiles_n;
  place.m = (group * 8 + within % height) * layer.tile;
  place.n = within / height * layer.tile;
  place.begin = UInt32(place.slab) * UInt32(layer.slab_rows);
  const UInt32 end = place.begin + UInt32(layer.slab_rows);
  place.end = end < UInt32(layer.rows) ? end : UInt32(layer.rows);
  return place;
}

// Whether a tile's block owns a side's column sums.
__device__ inline bool owns_statistics(const Place &place, int side) {
  return (side ? place.m : place.n) == 0;
}

__device__ inline int tiles_of(const Layer &layer) {
  return ceil_div(layer.operands[0].channels, layer.tile) *
         ceil_div(layer.operands[1].channels, layer.tile);
}

// Shared memory of a tile: the layer, the place, and then the rest. The place is not in registers,
// where the smaller tiles have none to spare.
__device__ inline Place &shared_place() {
  return *reinterpret_cast<Place *>(shared_memory() + sizeof(Layer));
}
__device__ inline unsigned char *scratch() {
  return shared_memory() + sizeof(Layer) + sizeof(Place);
}

template <class Value> __device__ inline Value *product_of(const Layer &layer, Int64 block) {
  return static_cast<Value *>(layer.workspace) + block * (layer.tile * layer.tile);
}

template <class Value>
__device__ inline Value *statistics_of(const Layer &layer, int side, int slab) {
  Value *base = product_of<Value>(layer, Int64(layer.slabs) * tiles_of(layer));
  if (side)
    base += Int64(layer.slabs) * 2 * layer.operands[0].channels;
  return base + Int64(slab) * 2 * layer.operands[side].channels;
}

} // namespace lmc
