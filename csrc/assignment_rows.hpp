#pragma once

#include <cstdint>

namespace lmc {

// All kernels see sign * a, to be maximised. `price` is rounded to T.

// What one pass over a row finds out; `poison` is zero unless an entry is not finite.
template <class T> struct RowSummary {
  T best, least, poison;
};
RowSummary<float> summarise_row(const float *row, float sign, std::int64_t count);
RowSummary<double> summarise_row(const double *row, double sign, std::int64_t count);

// The largest and second largest a_j - p_j (equal under a tie) and a place of the largest, -1 if
// none is above -infinity.
template <class T> struct TopTwo {
  T best, second;
  std::int64_t index;
};
TopTwo<float> top_two(const float *row, float sign, const float *price, std::int64_t count);
TopTwo<double> top_two(const double *row, double sign, const double *price, std::int64_t count);

// best_of[j] = max(best_of[j], sign * row[j] - offset).
void raise_columns(const float *row, float sign, float offset, float *best_of, std::int64_t count);
void raise_columns(const double *row, double sign, double offset, double *best_of,
                   std::int64_t count);

// differs[j] = 1 where row[j] is not reference[j].
void mark_differences(const float *row, const float *reference, float *differs, std::int64_t count);
void mark_differences(const double *row, const double *reference, double *differs,
                      std::int64_t count);

// Entries side by side that fall into different groups.
constexpr std::int64_t group_lanes = 32;

// A depth that gives 128 to 256 groups, or one group per entry in narrow matrices.
constexpr std::int64_t group_depth(std::int64_t cols) {
  return cols < 512 ? 1 : cols < 65536 ? cols / 256 : 256;
}

// The row is cut into blocks of `depth` * group_lanes entries; group (b, l) holds every
// group_lanes-th entry of block b from the l-th on. Writes the largest sign * a - price of every
// group, and returns the number of groups, a multiple of group_lanes. The entries behind the last
// whole vector are a block of their own.
std::int64_t group_maxima(const float *row, float sign, const float *price, std::int64_t count,
                          std::int64_t depth, float *maxima);
std::int64_t group_maxima(const double *row, double sign, const double *price, std::int64_t count,
                          std::int64_t depth, double *maxima);

// A threshold that about `wanted` of the values reach: at least that many, unless all do.
float upper_threshold(const float *values, std::int64_t count, std::int64_t wanted, float range);
double upper_threshold(const double *values, std::int64_t count, std::int64_t wanted, double range);

// The second largest of the values, equal to the largest under a tie.
float second_largest(const float *values, std::int64_t count);
double second_largest(const double *values, std::int64_t count);

// The smallest size of a nonzero entry, infinity if there is none.
float smallest_size(const float *row, std::int64_t count);
double smallest_size(const double *row, std::int64_t count);

} // namespace lmc
