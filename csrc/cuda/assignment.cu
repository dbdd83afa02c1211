// Linear assignment, one block to a problem: the method of Jonker and Volgenant (Computing 38,
// 1987, 325-340), column reduction and shortest augmenting paths, each step of a path relaxed by
// all threads.
//
// Entries are scaled by a power of two and rounded to integers of at most 2^46, as on the CPU, so
// every sum and difference is exact: the duals prove the optimum with gap 0, and the
// lexicographically smallest of equal optima does not depend on the order of the work.
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
  Int64 *columns;  // [batch][rows]
  double *u;       // [batch][rows]
  double *v;       // [batch][columns]
  double *reports; // [batch][report_fields]
  Int64 *status;   // [batch][2]: status, flat index of the first invalid entry
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

struct AssignmentBlock {
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

  __device__ AssignmentBlock(const AssignmentGroup &given, Int64 index, bool maximise)
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

  // Duals that leave no reduced cost negative, and the pairs they make tight as far as they agree.
  __device__ void reduce() {
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads) {
      Int64 least = forbidden;
      if (rows == cols)
        for (int i = 0; i < rows; ++i) {
          const Int64 c = entry(i, j);
          least = c < least ? c : least;
        }
      v[j] = least == forbidden ? 0 : least;
      row_of[j] = none;
    }
    barrier();
    const int lane = int(threadIdx.x) % 32;
    for (int i = int(threadIdx.x) / 32; i < rows; i += assignment_warps) {
      Candidate best = row_minimum(i, lane);
      if (lane == 0) {
        u[i] = best.value == forbidden ? 0 : best.value;
        column_of[i] = best.value == forbidden ? -1 : best.key;
        if (best.value != forbidden)
          atomic_min(&row_of[best.key], i);
      }
    }
    barrier();
    for (int i = int(threadIdx.x); i < rows; i += assignment_threads)
      if (column_of[i] >= 0 && row_of[column_of[i]] != i)
        column_of[i] = -1;
    barrier();
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
      row_of[j] = row_of[j] == none ? -1 : row_of[j];
    barrier();
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

  // Matches a free row along a shortest path. Only the thread that owns a column touches its
  // distance. Returns how many rows were scanned, or -1 where no path exists.
  __device__ int augment(int free_row) {
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads) {
      distance[j] = forbidden;
      done[j] = 0;
    }
    Int64 reached = 0;
    int i = free_row, sink = -1, steps = 0;
    while (sink < 0) {
      Candidate best{forbidden, none};
      for (int j = int(threadIdx.x); j < cols; j += assignment_threads) {
        if (done[j])
          continue;
        const Int64 c = entry(i, j);
        if (c != forbidden && reached + c - u[i] - v[j] < distance[j]) {
          distance[j] = reached + c - u[i] - v[j];
          previous[j] = i;
        }
        // A free column ends the path: it comes before others at the same distance.
        const Candidate here{distance[j], row_of[j] < 0 ? j : cols + j};
        best = here.before(best) ? here : best;
      }
      best = first_of(best);
      ++steps;
      if (best.value == forbidden)
        return -1;
      reached = best.value;
      const int j = best.key % cols;
      if (j % assignment_threads == int(threadIdx.x))
        done[j] = 1;
      if (row_of[j] < 0)
        sink = j;
      else
        i = row_of[j];
    }
    barrier();
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
      if (done[j] && j != sink) {
        v[j] -= reached - distance[j];
        u[row_of[j]] += reached - distance[j];
      }
    if (threadIdx.x == 0)
      u[free_row] += reached;
    barrier();
    if (threadIdx.x == 0)
      for (int j = sink; j >= 0;) {
        const int row = previous[j], left = column_of[row];
        row_of[j] = row;
        column_of[row] = j;
        j = row == free_row ? -1 : left;
      }
    barrier();
    return steps;
  }

  // Raises every u as far as v allows and adds up how far the chosen pairs are from tight.
  __device__ Int64 certify(Int64 &moved, double &moved_by) {
    const int lane = int(threadIdx.x) % 32;
    Int64 gap = 0, count = 0;
    double most = 0.0;
    for (int i = int(threadIdx.x) / 32; i < rows; i += assignment_warps) {
      const Candidate best = row_minimum(i, lane);
      if (lane == 0) {
        u[i] = best.value;
        gap += entry(i, column_of[i]) - v[column_of[i]] - best.value;
      }
      for (int j = lane; j < cols; j += 32) {
        const double exact = value(i, j) * scale * scale_rest;
        const double shift = exact - double(round_to_integer(exact - exact == 0.0 ? exact : 0.0));
        const double size = shift < 0.0 ? -shift : shift;
        if (exact - exact == 0.0 && size > 0.0) {
          ++count;
          most = size > most ? size : most;
        }
      }
    }
    if (rows < cols)
      for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
        gap += row_of[j] < 0 || v[j] > 0 ? (v[j] < 0 ? -v[j] : v[j]) : 0;
    moved = sum_of(count);
    moved_by = largest_of(most) * restore * restore_rest;
    return sum_of(gap);
  }

  // Turns the optimum into the lexicographically smallest one. A row may move to an earlier tight
  // column if the row there can be moved along tight pairs, and so on, to the column the first row
  // leaves or, where that one may stay free, to a free column. Rows already settled take no part.
  __device__ void settle(int i) {
    const int current = column_of[i];
    int earlier = none;
    for (int j = int(threadIdx.x); j < current; j += assignment_threads)
      if ((row_of[j] < 0 || row_of[j] > i) && is_tight(i, j)) {
        earlier = j;
        break;
      }
    if (first_of({0, earlier}).key == none)
      return;
    // Backwards from the columns where a chain may end; previous[j] is where the row of j moves to.
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
      done[j] = 0;
    if (threadIdx.x == 0)
      *tail = 0;
    barrier();
    int *queue = reinterpret_cast<int *>(distance);
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
      if (j == current || (row_of[j] < 0 && v[current] == 0)) {
        done[j] = 1;
        queue[atomic_add(tail, 1)] = j;
      }
    barrier();
    for (int head = 0; head < *tail; ++head) {
      const int to = queue[head];
      barrier();
      for (int row = i + 1 + int(threadIdx.x); row < rows; row += assignment_threads) {
        const int from = column_of[row];
        if (!done[from] && is_tight(row, to)) {
          done[from] = 1;
          previous[from] = to;
          queue[atomic_add(tail, 1)] = from;
        }
      }
      barrier();
    }
    int target = none;
    for (int j = int(threadIdx.x); j < current; j += assignment_threads)
      if (done[j] && is_tight(i, j)) {
        target = j;
        break;
      }
    target = first_of({0, target}).key;
    if (target != none && threadIdx.x == 0) {
      int row = i, to = target;
      for (;;) {
        const int displaced = row_of[to];
        row_of[to] = row;
        column_of[row] = to;
        if (to == current)
          break;
        if (displaced < 0) {
          row_of[current] = -1;
          break;
        }
        row = displaced;
        to = previous[to];
      }
    }
    barrier();
  }

  __device__ void run() {
    if (!survey())
      return;
    reduce();
    int paths = 0, steps = 0;
    for (int i = 0; i < rows; ++i) {
      if (column_of[i] >= 0)
        continue;
      const int scanned = augment(i);
      if (scanned < 0) {
        finish(infeasible, i);
        return;
      }
      steps += scanned;
      ++paths;
    }
    Int64 moved = 0;
    double moved_by = 0.0;
    const Int64 gap = certify(moved, moved_by);
    for (int i = 0; i < rows; ++i)
      settle(i);
    const double sign = maximize ? -1.0 : 1.0;
    for (int i = int(threadIdx.x); i < rows; i += assignment_threads) {
      group.columns[batch * rows + i] = column_of[i];
      group.u[batch * rows + i] = sign * double(u[i]) * restore * restore_rest;
    }
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads)
      group.v[batch * cols + j] = sign * double(v[j]) * restore * restore_rest;
    if (threadIdx.x == 0) {
      double *report = group.reports + batch * report_fields;
      report[0] = double(gap) * restore * restore_rest;
      report[1] = restore * restore_rest;
      report[2] = double(moved);
      report[3] = moved_by;
      report[4] = paths;
      report[5] = steps;
    }
    finish(solved, 0);
  }
};

extern "C" __global__ void __launch_bounds__(assignment_threads, 1)
    assignment(const __grid_constant__ AssignmentParams params) {
  int index = 0;
  while (index + 1 < params.groups && params.group[index + 1].first_block <= int(blockIdx.x))
    ++index;
  const AssignmentGroup &group = params.group[index];
  AssignmentBlock(group, int(blockIdx.x) - group.first_block, params.maximize != 0).run();
}

} // namespace lmc
