#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "assignment_grid.hpp"

namespace lmc {

// All kernels see sign * a, to be maximised. `price` is rounded to T.

// What one pass over a row finds out: the two largest (equal under a tie) and a place of the
// largest, -1 if none is above -infinity; the least; the least magnitude but zero; and
// whether all entries are finite.
template <class T> struct RowSummary {
  T best, second;
  std::int64_t place;
  T least, smallest;
  bool finite;
};
RowSummary<float> summarise_row(const float *row, float sign, std::int64_t count);
RowSummary<double> summarise_row(const double *row, double sign, std::int64_t count);

// Sets the bits of the places where sign * a = value, and returns their number.
std::int64_t mark_places(const float *row, float sign, float value, std::int64_t count,
                         std::uint64_t *bits);
std::int64_t mark_places(const double *row, double sign, double value, std::int64_t count,
                         std::uint64_t *bits);

// The largest and second largest a_j - p_j (equal under a tie) and a place of the largest, -1 if
// none is above -infinity.
template <class T> struct TopTwo {
  T best, second;
  std::int64_t index;
};
TopTwo<float> top_two(const float *row, float sign, const float *price, std::int64_t count);
TopTwo<double> top_two(const double *row, double sign, const double *price, std::int64_t count);

// The same of two rows at once.
std::array<TopTwo<float>, 2> top_two(const std::array<const float *, 2> &rows, float sign,
                                     const float *price, std::int64_t count);
std::array<TopTwo<double>, 2> top_two(const std::array<const double *, 2> &rows, double sign,
                                      const double *price, std::int64_t count);

// best_of[j] = max(best_of[j], sign * row[j] - offset).
void raise_columns(const float *row, float sign, float offset, float *best_of, std::int64_t count);
void raise_columns(const double *row, double sign, double offset, double *best_of,
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

// Writes the places of the values that reach the threshold and returns their number.
std::int64_t reaching(const float *values, std::int64_t count, float threshold,
                      std::int32_t *places);
std::int64_t reaching(const double *values, std::int64_t count, double threshold,
                      std::int32_t *places);

// Writes the places of the entries in the given groups whose sign * a - price reaches the
// threshold.
std::int64_t members_reaching(const float *row, float sign, const float *price, std::int64_t count,
                              std::int64_t depth, const std::int32_t *groups,
                              std::int64_t group_count, float threshold, std::int32_t *places);
std::int64_t members_reaching(const double *row, double sign, const double *price,
                              std::int64_t count, std::int64_t depth, const std::int32_t *groups,
                              std::int64_t group_count, double threshold, std::int32_t *places);

// A threshold that at least `wanted` of the values reach, and not many more; `spread`, the distance
// from the largest value, is a first guess and becomes the answer.
float upper_threshold(const float *values, std::int64_t count, std::int64_t wanted, float &spread);
double upper_threshold(const double *values, std::int64_t count, std::int64_t wanted,
                       double &spread);

// The entries that are no multiples of the grid's step, and how far the farthest is from one.
struct Moved {
  std::int64_t count;
  double by;
};
Moved moved_entries(const float *row, std::int64_t count, const Grid &grid);
Moved moved_entries(const double *row, std::int64_t count, const Grid &grid);

// Finds the few best entries of a row without looking at each of the others.
template <class T> class GroupScan {
public:
  explicit GroupScan(std::int64_t cols)
      : cols_(cols), depth_(group_depth(cols)), maxima_(cols / depth_ + 2 * group_lanes),
        hit_(maxima_.size()), places_(cols + group_lanes) {}

  void read(const T *row, T sign, const T *price) {
    row_ = row;
    sign_ = sign;
    price_ = price;
    groups_ = group_maxima(row, sign, price, cols_, depth_, maxima_.data());
  }

  const T *maxima() const { return maxima_.data(); }
  std::int64_t groups() const { return groups_; }

  // The places of all entries of the row that reach the threshold.
  std::span<const std::int32_t> places(T threshold) {
    const std::int64_t hits = reaching(maxima_.data(), groups_, threshold, hit_.data());
    const std::int64_t found = members_reaching(row_, sign_, price_, cols_, depth_, hit_.data(),
                                                hits, threshold, places_.data());
    return {places_.data(), static_cast<std::size_t>(found)};
  }

private:
  std::int64_t cols_, depth_, groups_ = 0;
  std::vector<T> maxima_;
  std::vector<std::int32_t> hit_, places_;
  const T *row_ = nullptr, *price_ = nullptr;
  T sign_ = 1;
};

} // namespace lmc
