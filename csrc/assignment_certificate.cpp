#include "assignment_certificate.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>

#include "assignment_rows.hpp"
#include "parallel.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T> class Certifier {
public:
  Certifier(const RowMatrix<T> &matrix, const Matching &matching, Certificate &result)
      : matrix_(matrix), matching_(matching), result_(result), depth_(group_depth(matrix.cols)),
        rounded_(matrix.cols), maxima_(matrix.cols / depth_ + 2 * group_lanes) {
    const double unit = std::ldexp(1.0, matrix.grid.exponent);
    double largest = 0;
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      rounded_[j] = static_cast<T>(matching.price[j] * unit);
      largest = std::max(largest, std::abs(matching.price[j]));
    }
    // Differences formed in T are within `slack` of the exact ones on the grid.
    const double step = std::ldexp(1.0, -matrix.grid.bits);
    const double slack =
        (1 + largest) * 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) + step;
    slack_ = static_cast<T>(2 * slack * unit);
    tiny_ = static_cast<T>(unit * step / static_cast<double>(std::numeric_limits<T>::epsilon()));
  }

  void row(std::int64_t i) {
    const T *row = matrix_.row(i);
    const std::int64_t groups =
        group_maxima(row, matrix_.sign, rounded_.data(), matrix_.cols, depth_, maxima_.data());
    const T threshold = second_largest(maxima_.data(), groups) - slack_;
    const std::int64_t own = matching_.col_of[i];
    const double profit =
        own < 0 ? matching_.row_floor : matrix_.exact(i, own) - matching_.price[own];
    double other = -infinity;
    candidates_.clear();
    for (std::int64_t group = 0; group < groups; ++group) {
      if (maxima_[group] >= threshold) {
        const std::int64_t first =
            group / group_lanes * (group_lanes * depth_) + group % group_lanes;
        const std::int64_t last =
            std::min(matrix_.cols, (group / group_lanes + 1) * group_lanes * depth_);
        for (std::int64_t j = first; j < last; j += group_lanes) {
          if (j != own && row[j] * matrix_.sign - rounded_[j] >= threshold) {
            const double x = matrix_.exact(i, j) - matching_.price[j];
            if (x >= other) {
              if (x > other) {
                candidates_.clear();
              }
              other = x;
              candidates_.push_back(j);
            }
          }
        }
      }
    }
    const double best = std::max({profit, other, matching_.row_floor});
    result_.u[i] = best;
    result_.margins[i] = best - other;
    if (own >= 0 && profit == best) {
      result_.tight.add(i, own);
    }
    if (other == best) {
      for (const std::int64_t j : candidates_) {
        result_.tight.add(i, j);
      }
    }
    count_moved(row);
  }

  std::int64_t moved() const { return moved_; }
  double moved_by() const { return moved_by_; }

private:
  void count_moved(const T *row) {
    // An entry with so many trailing bits to spare is a multiple of the grid's step.
    if (smallest_size(row, matrix_.cols) >= tiny_) {
      return;
    }
    for (std::int64_t j = 0; j < matrix_.cols; ++j) {
      const auto x = static_cast<double>(row[j]);
      const double shift = std::abs(matrix_.grid(x) - matrix_.grid.exact(x));
      moved_ += shift > 0;
      moved_by_ = shift > moved_by_ ? shift : moved_by_;
    }
  }

  const RowMatrix<T> &matrix_;
  const Matching &matching_;
  Certificate &result_;
  std::int64_t depth_;
  std::vector<T> rounded_, maxima_;
  std::vector<std::int64_t> candidates_;
  T slack_, tiny_;
  std::int64_t moved_ = 0;
  double moved_by_ = 0;
};

// The margins of columns: price_j minus the best offer of any row but its own.
template <class T>
std::vector<double> column_margins(const RowMatrix<T> &matrix, const Matching &matching,
                                   const std::vector<double> &u) {
  std::vector<double> offer(matrix.cols, -infinity);
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    const std::int64_t own = matching.col_of[i];
    const double kept = own < 0 ? 0.0 : offer[own];
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      const double x = matrix.exact(i, j) - u[i];
      offer[j] = x > offer[j] ? x : offer[j];
    }
    if (own >= 0) {
      offer[own] = kept;
    }
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    offer[j] = matching.price[j] - offer[j];
  }
  return offer;
}

} // namespace

template <class T>
Certificate certify(const RowMatrix<T> &matrix, const Matching &matching, bool by_column,
                    int threads, Interrupt &interrupt) {
  Certificate result;
  result.u.resize(matrix.rows);
  result.margins.resize(matrix.rows);
  result.tight = TightGraph(matrix.rows, matrix.cols);
  std::mutex merge;
  const std::int64_t grain =
      std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix.cols, 1));
  std::atomic<bool> stop{false};
  parallel_for(matrix.rows, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    Certifier<T> certifier(matrix, matching, result);
    for (std::int64_t i = begin; i < end && !stop; ++i) {
      certifier.row(i);
      if (threads == 1 && interrupt(matrix.cols)) {
        stop = true;
      }
    }
    const std::lock_guard<std::mutex> lock(merge);
    result.moved += certifier.moved();
    result.moved_by = std::max(result.moved_by, certifier.moved_by());
    if (interrupt((end - begin) * matrix.cols)) {
      stop = true;
    }
  });
  if (interrupt.stopped()) {
    return result;
  }
  if (matrix.rows < matrix.cols) {
    result.floor = *std::min_element(matching.price.begin(), matching.price.begin() + matrix.cols);
  } else if (matrix.rows > matrix.cols) {
    result.floor = -matching.row_floor;
  }
  result.largest = std::abs(result.floor);
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    const std::int64_t j = matching.col_of[i];
    result.gap += j < 0 ? result.u[i] - matching.row_floor
                        : result.u[i] - (matrix.exact(i, j) - matching.price[j]);
    result.largest = std::max(result.largest, std::abs(result.u[i]));
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    if (matching.row_of[j] < 0) {
      result.gap += matching.price[j] - result.floor;
    }
    result.largest = std::max(result.largest, std::abs(matching.price[j]));
  }
  if (by_column) {
    result.margins = column_margins(matrix, matching, result.u);
  }
  return result;
}

template Certificate certify(const RowMatrix<float> &, const Matching &, bool, int, Interrupt &);
template Certificate certify(const RowMatrix<double> &, const Matching &, bool, int, Interrupt &);

} // namespace lmc
