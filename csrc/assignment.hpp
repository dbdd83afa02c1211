#pragma once

#include <cstdint>
#include <functional>

namespace lmc {

enum class AssignmentStatus { ok, infeasible, invalid_value, interrupted };

// A dense matrix read in place. Strides count elements; one of the two must be 1.
struct CostMatrix {
  const void *data;
  bool float64; // else float32
  std::int64_t rows, cols;
  std::int64_t row_stride, col_stride;
};

struct AssignmentOptions {
  bool maximize = false;
  bool objective = true;                // whether the report is to have it
  bool keep = false;                    // ties: nearest to prefer, else lexicographically first
  double max_gap = 0;                   // stop as soon as the certificate is this good
  int threads = 1;                      // 1 or more
  std::function<bool()> interrupted;    // polled every few milliseconds; may be empty
  const std::int64_t *prefer = nullptr; // (rows,), -1 for no preference
  const double *initial_u = nullptr;    // (rows,), a hint: never changes the optimum
  const double *initial_v = nullptr;    // (cols,)
};

// Where the answer goes; everything but cols may be null.
struct AssignmentOutput {
  std::int64_t *cols;        // (rows,), -1 for a row without partner
  double *u = nullptr;       // (rows,)
  double *v = nullptr;       // (cols,)
  double *margins = nullptr; // (rows,)
  double *regrets = nullptr; // (rows,), of an optimum only
};

struct AssignmentReport {
  AssignmentStatus status = AssignmentStatus::ok;
  std::int64_t bad_row = -1, bad_col = -1; // of the first invalid value
  double objective = 0;                    // of the matrix as given, if asked for
  double gap = 0;                          // dual minus primal on the grid
  double grid = 0;                         // entries were rounded to multiples of this
  double moved_by = 0;                     // largest rounding
  std::int64_t moved = 0;                  // entries rounded
  std::int64_t rows_read = 0;              // scans of a whole row
  std::int64_t list_visits = 0;            // scans of a candidate list
  std::int64_t augmentations = 0;          // shortest paths searched
};

// Solves one linear assignment problem: min (or max) of sum_i c[i, cols[i]] over one-to-one maps.
// Duals: u_i + v_j <= c_ij (>= when maximising) with equality on the chosen pairs; the v (or u) of
// an unmatched column (or row) is 0.
AssignmentReport solve_assignment(const CostMatrix &cost, const AssignmentOptions &options,
                                  const AssignmentOutput &output);

} // namespace lmc
