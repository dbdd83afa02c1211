#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "assignment_rows.hpp"
#include "assignment_solver.hpp"

namespace lmc {

// Epsilon over the spread of the rows, phase by phase, where rows look at lists of candidates.
inline constexpr std::array<double, 4> list_shares{0.1, 0.015, 0.002, 0.0003};

// Finds the columns that belong on a row's list, with a bound on what the others yield. Rows are
// read in T at rounded prices; the bound allows for that.
template <class Matrix> class CandidateScan {
  using T = typename Matrix::Value;

public:
  // Columns without a price are on no list.
  explicit CandidateScan(const Matrix &matrix)
      : matrix_(matrix), unit_(static_cast<T>(power_of_two(matrix.grid.exponent))),
        rounded_(matrix.cols, std::numeric_limits<T>::infinity()), groups_(matrix.cols),
        spread_(unit_ / 64) {}

  void set_price(std::int64_t j, double price) { rounded_[j] = static_cast<T>(price) * unit_; }

  // At least `wanted` of the best columns of row i and, on the grid, a bound on the profit at all
  // others: -infinity if there are none. No price's magnitude exceeds largest_price.
  struct Found {
    std::span<const std::int32_t> cols;
    double bound;
  };
  Found read(std::int64_t i, std::int64_t wanted, double largest_price) {
    const double slack = difference_error(largest_price);
    groups_.read(matrix_.row(i), matrix_.sign, rounded_.data());
    const T threshold = upper_threshold(groups_.maxima(), groups_.groups(), wanted, spread_) -
                        static_cast<T>(2 * slack) * unit_;
    // A threshold without a place to go to says that every column worth anything is listed.
    return {groups_.places(threshold),
            threshold > std::numeric_limits<T>::lowest()
                ? static_cast<double>(threshold) * matrix_.grid.scale + slack
                : -std::numeric_limits<double>::infinity()};
  }

  // Every column at which row i gets at least this profit, and perhaps some others.
  std::span<const std::int32_t> reaching(std::int64_t i, double profit, double largest_price) {
    groups_.read(matrix_.row(i), matrix_.sign, rounded_.data());
    const T threshold = static_cast<T>(profit - 2 * difference_error(largest_price)) * unit_;
    // What is forbidden yields -infinity.
    return groups_.places(std::max(threshold, std::numeric_limits<T>::lowest()));
  }

private:
  double difference_error(double largest_price) const {
    return matrix_.grid.difference_error(largest_price,
                                         static_cast<double>(std::numeric_limits<T>::epsilon()));
  }

  const Matrix &matrix_;
  const T unit_;
  std::vector<T> rounded_;
  GroupScan<T> groups_;
  T spread_; // from a row's best to the threshold of its list, as last seen
};

// What a search for shortest paths comes to next; the nearest event tops a heap.
struct Event {
  double key;
  std::int64_t node; // a column or sink, or ~row (~source) for the bound of its list
  bool operator<(const Event &other) const { return key > other.key; }
};

} // namespace lmc
