// Linear assignment, one block to a problem: the method of Jonker and Volgenant (Computing 38,
// 1987, 325-340), column reduction and shortest augmenting paths, each step of a path relaxed by
// all threads.
//
// Entries are scaled by a power of two and rounded to integers of at most 2^46, as on the CPU, so
// every sum and difference is exact: the duals prove the optimum with gap 0, and the
// lexicographically smallest of equal optima does not depend on the order of the work.
#include "assignment_problem.cuh"

namespace lmc {

struct AssignmentSolver : AssignmentProblem {
  using AssignmentProblem::AssignmentProblem;

  // Any duals of columns will do: those of the rows follow.
  __device__ Int64 initial_dual(int j) const {
    const double given = group.initial_v[batch * cols + j];
    const double x = (maximize ? -given : given) * scale * scale_rest;
    const double limit = power_of_two(grid_bits + 1);
    return round_to_integer(x < -limit ? -limit : x > limit ? limit : x);
  }

  __device__ Int64 column_minimum(int j) const {
    Int64 least = forbidden;
    for (int i = 0; i < rows; ++i) {
      const Int64 c = entry(i, j);
      least = c < least ? c : least;
    }
    return least == forbidden ? 0 : least;
  }

  // Duals that leave no reduced cost negative, and the pairs they make tight as far as they agree.
  // A column that stays free must have dual 0: only square problems start from others.
  __device__ void reduce() {
    for (int j = int(threadIdx.x); j < cols; j += assignment_threads) {
      v[j] = rows < cols ? 0 : group.initial_v ? initial_dual(j) : column_minimum(j);
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
  AssignmentSolver(group, int(blockIdx.x) - group.first_block, params.maximize != 0).run();
}

} // namespace lmc
