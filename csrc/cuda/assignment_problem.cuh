// One assignment problem of a launch: where it lies, its entries on the grid, and what a block of
// threads finds out about it together.
#pragma once

#include "primitives.cuh"

namespace lmc {

constexpr int assignment_threads = 256;
constexpr int assignment_warps = assignment_threads / 32;
constexpr int max_groups = 32;
constexpr int grid_bits = 46;
constexpr int report_fields = 6; // gap, grid, moved, moved_by, paths, steps
constexpr Int64 forbidden = Int64(1) << 62;
constexpr int none = 0x7fffffff;

enum AssignmentStatus : int { solved = 0, infeasible = 1, invalid = 2 };

// Matrices of one shape, a fixed number of elements apart; rows <= columns.
struct AssignmentGroup {
  const void *cost;
  Int64 batch_stride, row_stride, column_stride;
  const double *initial_v; // [batch][columns], or null
  Int64 *columns;          // [batch][rows]
  double *u;               // [batch][rows]
  double *v;               // [batch][columns]
  double *reports;         // [batch][report_fields]
  Int64 *status;           // [batch][2]: status, flat index of the first invalid entry
  int rows, cols;
  int first_block;
  int float64;
};

struct AssignmentParams {
  int groups;
  int maximize;
  AssignmentGroup group[max_groups];
};

static_assert(sizeof(AssignmentParams) <= 4096);

// The candidate that comes first: least value, then least key.
struct Candidate {
  Int64 value;
  int key;

  __device__ bool before(const Candidate &other) const {
    return value < other.value || (value == other.value && key < other.key);
  }
};

// 2^exponent, for normal doubles.
__device__ inline double power_of_two(int exponent) {
  return bits_to_double(Int64(exponent + 1023) << 52);
}

struct AssignmentProblem {
  const AssignmentGroup &group;
  Int64 batch;
  bool maximize;
  int rows, cols;
  double scale, scale_rest, restore, restore_rest;
  int parity;

  // Shared by the block.
  Int64 *u, *v, *distance;
  int *row_of, *column_of, *previous, *done;
  Int64 *slot_value; // [2][assignment_warps]
  int *slot_key;     // [2][assignment_warps]
  int *tail;

  __device__ AssignmentProblem(const AssignmentGroup &given, Int64 index, bool maximise)
      : group(given), batch(index), maximize(maximise), rows(given.rows), cols(given.cols),
        scale(1), scale_rest(1), restore(1), restore_rest(1), parity(0) {
    u = reinterpret_cast<Int64 *>(shared_memory());
    v = u + rows;
    distance = v + cols;
    slot_value = distance + cols;
    slot_key = reinterpret_cast<int *>(slot_value + 2 * assignment_warps);
    row_of = slot_key + 2 * assignment_warps;
    previous = row_of + cols;
    done = previous + cols;
    column_of = done + cols;
    tail = column_of + rows;
  }

  __device__ double value(int i, int j) const {
    const Int64 at = batch * group.batch_stride + i * group.row_stride + j * group.column_stride;
    const double x = group.float64 ? static_cast<const double *>(group.cost)[at]
                                   : double(static_cast<const float *>(group.cost)[at]);
    return maximize ? -x : x;
  }

  // On the grid, to be minimised.
  __device__ Int64 entry(int i, int j) const {
    const double x = value(i, j);
    return x - x == 0.0 ? round_to_integer(x * scale * scale_rest) : forbidden;
  }

  __device__ bool is_tight(int i, int j) const {
    const Int64 c = entry(i, j);
    return c != forbidden && c - u[i] - v[j] == 0;
  }

  // The first of all threads' candidates. Two sets of slots take turns, so that one barrier is
  // enough.
  __device__ Candidate first_of(Candidate mine) {
    for (int mask = 16; mask > 0; mask /= 2) {
      const Candidate other{shuffle_xor(mine.value, mask), shuffle_xor(mine.key, mask)};
      mine = other.before(mine) ? other : mine;
    }
    Int64 *values = slot_value + parity * assignment_warps;
    int *keys = slot_key + parity * assignment_warps;
    if (threadIdx.x % 32 == 0) {
      values[threadIdx.x / 32] = mine.value;
      keys[threadIdx.x / 32] = mine.key;
    }
    barrier();
    for (int w = 0; w < assignment_warps; ++w) {
      const Candidate other{values[w], keys[w]};
      mine = other.before(mine) ? other : mine;
    }
    parity = 1 - parity;
    return mine;
  }

  __device__ Int64 sum_of(Int64 mine) {
    for (int mask = 16; mask > 0; mask /= 2)
      mine += shuffle_xor(mine, mask);
    Int64 *values = slot_value + parity * assignment_warps;
    if (threadIdx.x % 32 == 0)
      values[threadIdx.x / 32] = mine;
    barrier();
    Int64 sum = 0;
    for (int w = 0; w < assignment_warps; ++w)
      sum += values[w];
    parity = 1 - parity;
    return sum;
  }

  // Doubles that are not negative order as their bits do.
  __device__ double largest_of(double mine) {
    return bits_to_double(-first_of({-double_to_bits(mine), 0}).value);
  }

  // False, with the first bad entry reported, if a value is NaN or the infinity that forbids
  // nothing.
  __device__ bool survey() {
    double largest = 0.0;
    Int64 bad = forbidden;
    for (int i = 0; i < rows; ++i)
      for (int j = int(threadIdx.x); j < cols; j += assignment_threads) {
        const double x = value(i, j);
        const double size = x < 0.0 ? -x : x;
        if (x - x == 0.0)
          largest = size > largest ? size : largest;
        else if (!(x > 0.0) && bad == forbidden)
          bad = Int64(i) * cols + j;
      }
    largest = largest_of(largest);
    bad = first_of({bad, 0}).value;
    if (bad != forbidden) {
      finish(invalid, bad);
      return false;
    }
    // largest = m 2^exponent with m in [1/2, 1).
    const bool tiny = largest < power_of_two(-1000);
    const Int64 bits = double_to_bits(tiny ? largest * power_of_two(54) : largest);
    const int exponent = largest > 0.0 ? int(bits >> 52) - 1022 - (tiny ? 54 : 0) : 0;
    const int up = grid_bits - exponent;
    const int first = up > 1000 ? 1000 : up < -1000 ? -1000 : up;
    scale = power_of_two(first);
    scale_rest = power_of_two(up - first);
    restore = power_of_two(-first);
    restore_rest = power_of_two(first - up);
    return true;
  }

  __device__ void finish(AssignmentStatus status, Int64 where) {
    if (threadIdx.x == 0) {
      group.status[2 * batch] = status;
      group.status[2 * batch + 1] = where;
    }
  }

  // By one warp: the least c - v of a row and its first column.
  __device__ Candidate row_minimum(int i, int lane) const {
    Candidate best{forbidden, none};
    for (int j = lane; j < cols; j += 32) {
      const Int64 c = entry(i, j);
      const Candidate here{c == forbidden ? forbidden : c - v[j], j};
      best = here.before(best) ? here : best;
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      const Candidate other{shuffle_xor(best.value, mask), shuffle_xor(best.key, mask)};
      best = other.before(best) ? other : best;
    }
    return best;
  }
};

} // namespace lmc
