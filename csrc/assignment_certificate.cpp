#include "assignment_certificate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "assignment_rows.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T> class Certifier {
public:
  Certifier(const RowMatrix<T> &matrix, const Matching &matching, Certificate &result)
      : matrix_(matrix), matching_(matching), result_(result), scan_(matrix.cols),
        rounded_(matrix.cols) {
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
  }

  void row(std::int64_t i) {
    const T *row = matrix_.row(i);
    scan_.read(row, matrix_.sign, rounded_.data());
    const T threshold = second_largest(scan_.maxima(), scan_.groups()) - slack_;
    const std::int64_t own = matching_.col_of[i];
    const double profit =
        own < 0 ? matching_.row_floor : matrix_.exact(i, own) - matching_.price[own];
    double other = -infinity;
    candidates_.clear();
    for (const std::int32_t j : scan_.places(threshold)) {
      const double x = matrix_.exact(i, j) - matching_.price[j];
      if (j != own && x >= other) {
        if (x > other) {
          candidates_.clear();
        }
        other = x;
        candidates_.push_back(j);
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
    const Moved moved = moved_entries(row, matrix_.cols, matrix_.grid);
    moved_.count += moved.count;
    moved_.by = std::max(moved_.by, moved.by);
  }

  Moved moved() const { return moved_; }

private:
  const RowMatrix<T> &matrix_;
  const Matching &matching_;
  Certificate &result_;
  GroupScan<T> scan_;
  std::vector<T> rounded_;
  std::vector<std::int64_t> candidates_;
  T slack_;
  Moved moved_{0, 0.0};
};

// Best and second-best a_j - p_j of a row; bit j of `tight` is set where it reaches `level`.
struct RowCheck {
  double best, second;
};

LMC_CLONES RowCheck check_row(const double *values, const double *price, double level,
                              std::int64_t count, std::uint64_t *tight) {
  Doubles first = Doubles{} - infinity;
  Doubles next = first;
  for (std::int64_t begin = 0; begin < count; begin += 64) {
    Longs bits{};
    Longs bit{1, 2, 4, 8};
    const std::int64_t end = std::min(count, begin + 64);
    for (std::int64_t j = begin; j < end; j += width<double>) {
      const Doubles x = load(values + j) - load(price + j);
      const Doubles lower = x < first ? x : first;
      next = lower > next ? lower : next;
      first = x > first ? x : first;
      bits |= (x >= level) & bit;
      bit <<= width<double>;
    }
    *tight++ = static_cast<std::uint64_t>(bits[0] | bits[1] | bits[2] | bits[3]);
  }
  RowCheck result{-infinity, -infinity};
  for (std::int64_t k = 0; k < width<double>; ++k) {
    result.second = std::max({result.second, next[k], std::min(result.best, first[k])});
    result.best = std::max(result.best, first[k]);
  }
  return result;
}

// The margins of columns: price_j minus the best offer of any row but its own.
template <class Entry>
std::vector<double> column_margins(std::int64_t rows, std::int64_t cols, const Matching &matching,
                                   const std::vector<double> &u, const Entry &entry,
                                   Interrupt &interrupt) {
  std::vector<double> offer(cols, -infinity);
  for (std::int64_t i = 0; i < rows && !interrupt(2 * cols); ++i) {
    const std::int64_t own = matching.col_of[i];
    const double kept = own < 0 ? 0.0 : offer[own];
    for (std::int64_t j = 0; j < cols; ++j) {
      const double x = entry(i, j) - u[i];
      offer[j] = x > offer[j] ? x : offer[j];
    }
    if (own >= 0) {
      offer[own] = kept;
    }
  }
  for (std::int64_t j = 0; j < cols; ++j) {
    offer[j] = matching.price[j] - offer[j];
  }
  return offer;
}

// The gap and what follows from it, once u is known.
template <class Entry>
void conclude(std::int64_t rows, std::int64_t cols, const Matching &matching, Margins margins,
              const Entry &entry, Certificate &result, Interrupt &interrupt) {
  if (rows < cols) {
    result.floor = *std::min_element(matching.price.begin(), matching.price.begin() + cols);
  } else if (rows > cols) {
    result.floor = -matching.row_floor;
  }
  result.largest = std::abs(result.floor);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t j = matching.col_of[i];
    result.gap += result.u[i] - (j < 0 ? matching.row_floor : entry(i, j) - matching.price[j]);
    result.largest = std::max(result.largest, std::abs(result.u[i]));
  }
  for (std::int64_t j = 0; j < cols; ++j) {
    if (matching.row_of[j] < 0) {
      result.gap += matching.price[j] - result.floor;
    }
    result.largest = std::max(result.largest, std::abs(matching.price[j]));
  }
  if (margins == Margins::of_columns) {
    result.margins = column_margins(rows, cols, matching, result.u, entry, interrupt);
  }
}

} // namespace

template <class T>
Certificate certify(const RowMatrix<T> &matrix, const Matching &matching, Margins margins,
                    int threads, Interrupt &interrupt) {
  Certificate result;
  result.u.resize(matrix.rows);
  result.margins.resize(matrix.rows);
  result.tight = TightGraph(matrix.rows, matrix.cols);
  std::mutex merge;
  const std::int64_t grain =
      std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix.cols, 1));
  Workers workers(interrupt);
  parallel_for(matrix.rows, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    Certifier<T> certifier(matrix, matching, result);
    workers.run(begin, end, [&](std::int64_t i, Interrupt &poll) {
      certifier.row(i);
      poll(2 * matrix.cols);
    });
    const std::lock_guard<std::mutex> lock(merge);
    result.moved += certifier.moved().count;
    result.moved_by = std::max(result.moved_by, certifier.moved().by);
  });
  if (!interrupt.stopped()) {
    conclude(
        matrix.rows, matrix.cols, matching, margins,
        [&matrix](std::int64_t i, std::int64_t j) { return matrix.exact(i, j); }, result,
        interrupt);
  }
  return result;
}

Certificate certify(const GridValues &values, const Matching &matching, Margins margins,
                    Interrupt &interrupt) {
  Certificate result;
  result.u.resize(values.rows);
  result.margins.resize(values.rows);
  result.tight = TightGraph(values.rows, values.cols);
  result.moved = values.moved;
  result.moved_by = values.moved_by;
  std::vector<double> price(values.stride);
  std::copy_n(matching.price.begin(), values.cols, price.begin());
  for (std::int64_t i = 0; i < values.rows && !interrupt(values.cols); ++i) {
    const std::int64_t own = matching.col_of[i];
    const double profit = values.row(i)[own] - price[own];
    const RowCheck check = check_row(values.row(i), price.data(), profit, values.stride,
                                     result.tight.bits.data() + i * result.tight.words);
    result.u[i] = check.best;
    // Where its own column is the best, the second best is another's.
    result.margins[i] = check.best - (profit == check.best ? check.second : check.best);
  }
  conclude(
      values.rows, values.cols, matching, margins,
      [&values](std::int64_t i, std::int64_t j) { return values.row(i)[j]; }, result, interrupt);
  return result;
}

template Certificate certify(const RowMatrix<float> &, const Matching &, Margins, int, Interrupt &);
template Certificate certify(const RowMatrix<double> &, const Matching &, Margins, int,
                             Interrupt &);

} // namespace lmc
