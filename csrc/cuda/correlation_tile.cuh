// The products of one tile: rows in, shifted, scaled, split into halves and multiplied.
//
// float32 accuracy on the half-precision tensor cores: every element is shifted by a provisional
// mean, scaled by a power of two and split into two halves, x = hi + lo; the products hi hi, hi lo
// and lo hi go to float accumulators. Tensor cores truncate when they add, so a long chain drifts:
// every 64 rows the accumulators are added, rounded to nearest, to a second set.
#pragma once

#include "correlation_layers.cuh"

namespace lmc {

constexpr int chunk = 4;  // consecutive elements a thread moves at a time
constexpr int stages = 3; // tiles of raw input under way
constexpr int chain = 4;  // 16-row products between two promotions: 64 rows

// How a block of 256 threads is laid over a tile of Size x Size outputs. A stage has 2048 elements
// of either side, two chunks to a thread.
template <int Size> struct Shape;
template <> struct Shape<128> {
  static constexpr int warp_rows = 64, warp_columns = 32, row_groups = 1;
};
template <> struct Shape<64> {
  static constexpr int warp_rows = 32, warp_columns = 32, row_groups = 2;
};
template <> struct Shape<32> {
  static constexpr int warp_rows = 16, warp_columns = 32, row_groups = 4;
};

template <int Size> struct Tile : Shape<Size> {
  using Shape<Size>::warp_rows, Shape<Size>::warp_columns, Shape<Size>::row_groups;
  static constexpr int depth = 16 * row_groups; // rows of a stage
  static constexpr int chunks = Size * depth / chunk / threads;
  static constexpr int blocks_m = warp_rows / 16;
  static constexpr int blocks_n = warp_columns / 8;
  static constexpr int row_pitch = Size + 8;      // of [depth][Size] halves
  static constexpr int channel_pitch = depth + 8; // of [Size][depth] halves
  static constexpr int halves =
      depth * row_pitch > Size *channel_pitch ? depth * row_pitch : Size * channel_pitch;
  static constexpr int raw_bytes = stages * 2 * chunks * threads * 16;
  static_assert(chunks == 2);
  static_assert((Size / warp_rows) * (Size / warp_columns) * row_groups * 32 == threads);
};

// Raw input, one 16-byte slot for every chunk; only the thread that filled a slot reads it.
__device__ inline unsigned char *raw_slot(unsigned char *raw, int stage, int side, int index) {
  return raw + (((stage * 2 + side) * 2 + index) * threads + int(threadIdx.x)) * 16;
}

template <class Element>
__device__ inline void fetch_chunk(unsigned char *slot, const Operand &operand, int spatial,
                                   UInt32 row, UInt32 end, int channel) {
  const auto *data = static_cast<const Element *>(operand.data);
  const int left = spatial == 0 ? operand.channels - channel : int(end - row);
  int count = row < end && channel < operand.channels ? (left < chunk ? left : chunk) : 0;
  if (operand.aligned) {
    const Int64 offset = count > 0 ? element_offset(operand, spatial, row, channel) : 0;
    copy_async<chunk *int(sizeof(Element))>(slot, data + offset, count * int(sizeof(Element)));
    return;
  }
#pragma unroll 1
  for (int e = 0; e < chunk; ++e) {
    const Int64 offset = e >= count ? 0
                         : spatial == 0
                             ? element_offset(operand, spatial, row, channel) + e
                             : element_offset(operand, spatial, row + UInt32(e), channel);
    if constexpr (sizeof(Element) == 4)
      copy_async<4>(slot + 4 * e, data + offset, e < count ? 4 : 0);
    else
      reinterpret_cast<Element *>(slot)[e] = e < count ? data[offset] : Element(0);
  }
}

// One block's state: the roles of its threads for one of the two input layouts.
template <int Size, bool Split, bool Planar> struct TileProduct {
  using T = Tile<Size>;
  static constexpr int parts = Split ? 2 : 1;

  const Layer &layer;
  const Place &place;
  unsigned char *raw;
  UInt16 *halves;    // [2 buffers][2 sides][parts][T::halves]
  float *normaliser; // [2 sides][shift, scale][Size]
  float sum[2][chunk];
  float squares[2][chunk];
  float largest;
  float accumulator[T::blocks_m][T::blocks_n][4];
  float total[T::blocks_m][T::blocks_n][4];

  __device__ TileProduct(const Layer &owner, const Place &where)
      : layer(owner), place(where), raw(scratch()),
        halves(reinterpret_cast<UInt16 *>(raw + T::raw_bytes)),
        normaliser(reinterpret_cast<float *>(halves + 2 * 2 * parts * T::halves)), sum{}, squares{},
        largest(0.0f), accumulator{}, total{} {}

  // Offsets, within a stage, of a thread's chunk: the row and channel of its first element.
  __device__ static int chunk_row(int index) {
    const int t = int(threadIdx.x);
    return Planar ? chunk * (t % (T::depth / chunk))
                  : t / (Size / chunk) + index * (threads / (Size / chunk));
  }
  __device__ static int chunk_channel(int index) {
    const int t = int(threadIdx.x);
    return Planar ? t / (T::depth / chunk) + index * (threads / (T::depth / chunk))
                  : chunk * (t % (Size / chunk));
  }

  __device__ UInt16 *half_tile(int buffer, int side, int part) const {
    return halves + ((buffer * 2 + side) * parts + part) * T::halves;
  }

  __device__ void load_normaliser() {
    for (int i = int(threadIdx.x); i < 4 * Size; i += threads) {
      const int side = i / (2 * Size), kind = i / Size % 2;
      const int channel = (side ? place.n : place.m) + i % Size;
      const Operand &operand = layer.operands[side];
      normaliser[i] =
          channel < operand.channels ? operand.normaliser[kind * operand.channels + channel] : 0.0f;
    }
  }

  __device__ void fetch(int stage) {
    const UInt32 first = place.begin + UInt32(stage) * T::depth;
    if (first < place.end)
#pragma unroll 1
      for (int side = 0; side < 2; ++side)
#pragma unroll
        for (int index = 0; index < 2; ++index) {
          const UInt32 row = first + UInt32(chunk_row(index));
          const int channel = (side ? place.n : place.m) + chunk_channel(index);
          unsigned char *slot = raw_slot(raw, stage % stages, side, index);
          if (layer.type == float32)
            fetch_chunk<float>(slot, layer.operands[side], layer.spatial, row, place.end, channel);
          else
            fetch_chunk<UInt16>(slot, layer.operands[side], layer.spatial, row, place.end, channel);
        }
    commit_copies();
  }

  // Shifts, scales and splits this thread's part of a stage.
  __device__ void convert(int stage) {
    const UInt32 first = place.begin + UInt32(stage) * T::depth;
#pragma unroll
    for (int side = 0; side < 2; ++side)
#pragma unroll
      for (int index = 0; index < 2; ++index) {
        const int row = chunk_row(index), channel = chunk_channel(index);
        const unsigned char *slot = raw_slot(raw, stage % stages, side, index);
        const float *shift = normaliser + side * 2 * Size + channel;
        UInt32 high[2], low[2];
        float value[chunk];
#pragma unroll
        for (int e = 0; e < chunk; ++e) {
          const bool inside = first + UInt32(row + (Planar ? e : 0)) < place.end;
          const int c = Planar ? 0 : e;
          value[e] = inside ? (element(slot, layer.type, e) - shift[c]) * shift[Size + c] : 0.0f;
          largest = fmaxf(largest, fabsf(value[e]));
        }
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          float &a = value[2 * pair], &b = value[2 * pair + 1];
          high[pair] = pack_halves(a, b);
          const float rounded_a = half_to_float(UInt16(high[pair] & 0xffffu));
          const float rounded_b = half_to_float(UInt16(high[pair] >> 16));
          if constexpr (Split)
            low[pair] = pack_halves(a - rounded_a, b - rounded_b);
          else
            a = rounded_a, b = rounded_b; // the statistics are those of what is multiplied
        }
        if (owns_statistics(place, side))
#pragma unroll
          for (int e = 0; e < chunk; ++e) {
            const int s = Planar ? index : e;
            sum[side][s] += value[e];
            squares[side][s] = fmaf(value[e], value[e], squares[side][s]);
          }
        const int at = Planar ? channel * T::channel_pitch + row : row * T::row_pitch + channel;
        auto *out = reinterpret_cast<UInt32 *>(half_tile(stage % 2, side, 0) + at);
        out[0] = high[0], out[1] = high[1];
        if constexpr (Split) {
          out = reinterpret_cast<UInt32 *>(half_tile(stage % 2, side, 1) + at);
          out[0] = low[0], out[1] = low[1];
        }
      }
  }

  // The address a lane gives for a 16 x 16 block: rows of the product in one tile direction, `Swap`
  // says whether the two inner 8 x 8 blocks follow the channels (left factor) or the rows (right
  // factor).
  template <bool Swap>
  __device__ static const UInt16 *matrix_row(const UInt16 *tile, int row, int channel) {
    const int lane = int(threadIdx.x) % 32;
    const int near = lane / 8 % 2 * 8, far = lane / 16 * 8, r = lane % 8;
    const int down = Swap ? near : far, across = Swap ? far : near;
    return Planar ? tile + (channel + across + r) * T::channel_pitch + row + down
                  : tile + (row + down + r) * T::row_pitch + channel + across;
  }

  __device__ void multiply(int stage) {
    const int warp = int(threadIdx.x) / 32;
    const int row = warp % T::row_groups * 16;
    const int m = warp / T::row_groups % (Size / T::warp_rows) * T::warp_rows;
    const int n = warp / T::row_groups / (Size / T::warp_rows) * T::warp_columns;
    UInt32 left[parts][T::blocks_m][4];
#pragma unroll
    for (int part = 0; part < parts; ++part)
#pragma unroll
      for (int i = 0; i < T::blocks_m; ++i)
        load_matrices<!Planar>(left[part][i],
                               matrix_row<false>(half_tile(stage % 2, 0, part), row, m + 16 * i));
#pragma unroll
    for (int j = 0; j < T::blocks_n; j += 2) {
      UInt32 right[parts][4];
#pragma unroll
      for (int part = 0; part < parts; ++part)
        load_matrices<!Planar>(right[part],
                               matrix_row<true>(half_tile(stage % 2, 1, part), row, n + 8 * j));
#pragma unroll
      for (int i = 0; i < T::blocks_m; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float (&d)[4] = accumulator[i][j + half];
          if constexpr (Split) {
            multiply_add(d, left[1][i], right[0][2 * half], right[0][2 * half + 1]);
            multiply_add(d, left[0][i], right[1][2 * half], right[1][2 * half + 1]);
          }
          multiply_add(d, left[0][i], right[0][2 * half], right[0][2 * half + 1]);
        }
    }
  }

  __device__ void promote() {
#pragma unroll
    for (int i = 0; i < T::blocks_m; ++i)
#pragma unroll
      for (int j = 0; j < T::blocks_n; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          total[i][j][e] += accumulator[i][j][e];
          accumulator[i][j][e] = 0.0f;
        }
  }

  __device__ void run() {
    load_normaliser();
    const int count = int((place.end - place.begin + T::depth - 1) / T::depth);
#pragma unroll 1
    for (int stage = 0; stage + 1 < stages; ++stage)
      fetch(stage);
    barrier();
#pragma unroll 1
    for (int stage = -1; stage < count; ++stage) {
      fetch(stage + stages);
      if (stage >= 0)
        multiply(stage);
      if (stage % chain == chain - 1)
        promote();
      if (stage + 1 < count) {
        wait_copies<stages - 1>();
        convert(stage + 1);
      }
      barrier();
    }
    promote();
  }

  // The tile's totals: the row groups' parts meet in shared memory and are added in order.
  __device__ void write_product(float *out) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int group = warp % T::row_groups;
    const int m = warp / T::row_groups % (Size / T::warp_rows) * T::warp_rows;
    const int n = warp / T::row_groups / (Size / T::warp_rows) * T::warp_columns;
    float *target =
        T::row_groups == 1 ? out : reinterpret_cast<float *>(scratch()) + group * Size * Size;
#pragma unroll
    for (int i = 0; i < T::blocks_m; ++i)
#pragma unroll
      for (int j = 0; j < T::blocks_n; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int r = m + 16 * i + lane / 4 + 8 * (e / 2);
          const int c = n + 8 * j + lane % 4 * 2 + e % 2;
          target[r * Size + c] = total[i][j][e];
        }
    if constexpr (T::row_groups > 1) {
      barrier();
      const auto *shared = reinterpret_cast<const float *>(scratch());
      for (int i = int(threadIdx.x); i < Size * Size; i += threads) {
        float value = shared[i];
#pragma unroll
        for (int g = 1; g < T::row_groups; ++g)
          value += shared[g * Size * Size + i];
        out[i] = value;
      }
    }
    barrier();
  }

  // The column sums: the threads that share a channel leave their parts in shared memory.
  __device__ void write_statistics(float *out, int side) {
    constexpr int sharers = Planar ? T::depth / chunk : threads / (Size / chunk);
    const int origin = side ? place.n : place.m;
    const int channels = layer.operands[side].channels;
    auto *parts_of = reinterpret_cast<float *>(scratch()); // [2][Size][sharers]
    const int t = int(threadIdx.x);
#pragma unroll
    for (int s = 0; s < (Planar ? 2 : chunk); ++s) {
      const int channel = Planar ? chunk_channel(s) : chunk_channel(0) + s;
      const int sharer = Planar ? t % (T::depth / chunk) : t / (Size / chunk);
      parts_of[channel * sharers + sharer] = sum[side][s];
      parts_of[(Size + channel) * sharers + sharer] = squares[side][s];
    }
    barrier();
    for (int i = t; i < 2 * Size; i += threads) {
      const int channel = origin + i % Size;
      float value = 0.0f;
      for (int s = 0; s < sharers; ++s)
        value += parts_of[i * sharers + s];
      if (channel < channels)
        out[i / Size * channels + channel] = value;
    }
    barrier();
  }
};

} // namespace lmc
