#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "assignment_solver.hpp"

namespace lmc {

// turned[j * height + i] = data[i * stride + j] for all i < height and j < breadth.
void turn(const float *data, std::int64_t stride, std::int64_t height, std::int64_t breadth,
          float *turned);
void turn(const double *data, std::int64_t stride, std::int64_t height, std::int64_t breadth,
          double *turned);

// The transpose of a matrix, for who reads its rows in order and few of them alone: a block of them
// is copied at a time, a 64th of a large matrix at most.
template <class T> class TurnedMatrix {
public:
  using Value = T;

  explicit TurnedMatrix(const RowMatrix<T> &matrix)
      : rows(matrix.cols), cols(matrix.rows), sign(matrix.sign), grid(matrix.grid), matrix_(matrix),
        block_(std::min(rows, std::clamp<std::int64_t>(rows / 64, 16, 32))),
        copied_(block_ * cols) {}

  // Valid until another row is asked for.
  const T *row(std::int64_t i) const {
    if (i < first_ || i >= first_ + height_) {
      const bool in_order = i == first_ + height_;
      first_ = i;
      height_ = in_order ? std::min(block_, rows - i) : 1;
      rows_alone_ += !in_order;
      turn(matrix_.data + i, matrix_.stride, cols, height_, copied_.data());
    }
    return copied_.data() + (i - first_) * cols;
  }

  double exact(std::int64_t i, std::int64_t j) const { return matrix_.exact(j, i); }

  // How often a row was read out of order, which takes as many lines of memory as it has entries.
  std::int64_t rows_alone() const { return rows_alone_; }

  const std::int64_t rows, cols;
  const T sign;
  const Grid grid;

private:
  const RowMatrix<T> &matrix_;
  const std::int64_t block_;
  mutable std::vector<T> copied_;
  mutable std::int64_t first_ = 0, height_ = 0; // of the rows in copied_
  mutable std::int64_t rows_alone_ = 0;
};

} // namespace lmc
