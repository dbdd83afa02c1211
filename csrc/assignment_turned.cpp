#include "assignment_turned.hpp"

#include "simd.hpp"

namespace lmc {
namespace {

LMC_INLINE void turn_block(const float *data, std::int64_t stride, float *turned,
                           std::int64_t height) {
  Floats block[8];
  for (int i = 0; i < 8; ++i) {
    block[i] = load(data + i * stride);
  }
  transpose(block);
  for (int j = 0; j < 8; ++j) {
    store(turned + j * height) = block[j];
  }
}

template <class T>
void turn_part(const T *data, std::int64_t stride, std::int64_t height, std::int64_t top,
               std::int64_t bottom, std::int64_t left, std::int64_t right, T *turned) {
  for (std::int64_t j = left; j < right; ++j) {
    for (std::int64_t i = top; i < bottom; ++i) {
      turned[j * height + i] = data[i * stride + j];
    }
  }
}

} // namespace

// Sixteen rows at a time: a line of the cache for each that is written.
LMC_CLONES void turn(const float *data, std::int64_t stride, std::int64_t height,
                     std::int64_t breadth, float *turned) {
  const std::int64_t bottom = height / 16 * 16;
  const std::int64_t right = breadth / 8 * 8;
  for (std::int64_t i = 0; i < bottom; i += 16) {
    for (std::int64_t j = 0; j < right; j += 8) {
      turn_block(data + i * stride + j, stride, turned + j * height + i, height);
      turn_block(data + (i + 8) * stride + j, stride, turned + j * height + i + 8, height);
    }
    turn_part(data, stride, height, i, i + 16, right, breadth, turned);
  }
  turn_part(data, stride, height, bottom, height, 0, breadth, turned);
}

void turn(const double *data, std::int64_t stride, std::int64_t height, std::int64_t breadth,
          double *turned) {
  constexpr std::int64_t side = 8;
  for (std::int64_t top = 0; top < height; top += side) {
    const std::int64_t bottom = std::min(top + side, height);
    for (std::int64_t left = 0; left < breadth; left += side) {
      turn_part(data, stride, height, top, bottom, left, std::min(left + side, breadth), turned);
    }
  }
}

} // namespace lmc
