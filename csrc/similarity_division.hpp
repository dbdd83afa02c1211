// How the products of similarity matrices are divided among threads. Included by their kernel
// alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "simd.hpp"
#include "similarity_cpu.hpp"
#include "similarity_pack.hpp"

namespace lmc {

constexpr std::int64_t most_units_in_parts = 512;
constexpr std::int64_t most_parts = 8;

struct Rectangle {
  std::int64_t row;
  std::int64_t row_end;
  std::int64_t column;
  std::int64_t column_end;
};

// Where a task's sums go: row-major, `stride` numbers a row.
template <class T> struct Target {
  T *data;
  std::int64_t stride;
  bool add; // to what is there
};

// Every product of the slices [first, end) in one rectangle of the matrix, with room to pack them.
// Slices up to `last` follow on the same thread.
template <class T> struct Task {
  const Slice<T> *first, *end, *last;
  Rectangle part;
  Target<T> target;
  T *packed_a, *packed_b;
};

// Does a task; false if interrupted.
template <class T> using Worker = bool (*)(const Task<T> &, const std::function<bool()> &);

// Memory for the partial sums of one call, kept by its thread: as much as was wanted at a time.
template <class T> class Buffers {
public:
  Buffers() : all_(kept()) {
    for (std::vector<T> &buffer : all_) {
      free_.push_back(&buffer);
    }
  }

  std::vector<T> &take(std::int64_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) {
      free_.push_back(&all_.emplace_back());
    }
    std::vector<T> &buffer = *free_.back();
    free_.pop_back();
    buffer.resize(std::max(buffer.size(), static_cast<std::size_t>(size)));
    return buffer;
  }

  void give(std::vector<T> &buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(&buffer);
  }

private:
  static std::deque<std::vector<T>> &kept() {
    thread_local std::deque<std::vector<T>> buffers;
    return buffers;
  }

  std::deque<std::vector<T>> &all_;
  std::vector<std::vector<T> *> free_;
  std::mutex mutex_;
};

// The products of one matrix as pieces of work: a small matrix is summed in parts of the products,
// a large one a rectangle at a time. Threads have a say in the rectangles only, so an element is
// always summed in the same order.
template <class T> class Division {
public:
  Division(const SimilarityUpdate<T> &update, std::int64_t depth, int threads)
      : alone_(threads == 1), afresh_(update.afresh), units_(update.units),
        matrix_(update.similarity), slices_(slices_of(update.sums, depth)) {
    const auto count = static_cast<std::int64_t>(slices_.size());
    const auto wanted = static_cast<double>(units_ <= most_units_in_parts ? 1 : threads);
    const auto down = static_cast<std::int64_t>(std::sqrt(wanted));
    const std::int64_t across = (static_cast<std::int64_t>(wanted) + down - 1) / down;
    // Multiples of every tile, so that only the matrix's own edge is ragged.
    height_ = rounded_up((units_ + down - 1) / down, 24);
    width_ = rounded_up((units_ + across - 1) / across, 32);
    if (units_ <= most_units_in_parts) {
      parts_ = std::min(most_parts, (count + 1) / 2);
    }
    sums_.resize(static_cast<std::size_t>(parts_));
  }

  [[nodiscard]] std::int64_t pieces() const {
    if (units_ == 0 || slices_.empty()) {
      return 0;
    }
    return parts_ * ((units_ + width_ - 1) / width_) * ((units_ + height_ - 1) / height_);
  }
  // Of the widest piece.
  [[nodiscard]] std::int64_t width() const { return width_; }

  // False if interrupted. The packed buffers are as in `add_products`.
  bool run(std::int64_t piece, Worker<T> work, Buffers<T> &buffers, T *packed_a, T *packed_b,
           const std::function<bool()> &interrupted) {
    const std::int64_t part = piece % parts_;
    const std::int64_t strips = (units_ + width_ - 1) / width_;
    const std::int64_t row = piece / parts_ / strips * height_;
    const std::int64_t column = piece / parts_ % strips * width_;
    // The first part goes to the matrix itself.
    std::vector<T> *const own = part == 0 ? nullptr : &buffers.take(units_ * units_);
    const Task<T> task{
        slices_.data() + begin_of(part),
        slices_.data() + begin_of(part + 1),
        slices_.data() + (alone_ ? begin_of(parts_) : begin_of(part + 1)),
        {row, std::min(row + height_, units_), column, std::min(column + width_, units_)},
        {own ? own->data() : matrix_, units_, part == 0 && !afresh_},
        packed_a,
        packed_b};
    if (!work(task, interrupted)) {
      return false;
    }
    if (parts_ > 1) {
      complete(part, own, buffers);
    }
    return true;
  }

private:
  // The slice a part begins with. The first part has three times as many as the last, so that
  // threads end together.
  [[nodiscard]] std::int64_t begin_of(std::int64_t part) const {
    const auto count = static_cast<std::int64_t>(slices_.size());
    return count * part * (3 * parts_ - part) / (2 * parts_ * parts_);
  }

  // Partial sums are added one after the other in the order of their parts: by the thread that
  // completes the next, together with those after it that wait.
  void complete(std::int64_t part, std::vector<T> *sums, Buffers<T> &buffers) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sums_[static_cast<std::size_t>(part)] = sums;
    if (part == 0) {
      next_ = 1;
    }
    for (; next_ > 0 && next_ < sums_.size() && sums_[next_] != nullptr; ++next_) {
      const T *const added = sums_[next_]->data();
      for (std::int64_t i = 0; i < units_ * units_; ++i) {
        matrix_[i] += added[i];
      }
      buffers.give(*sums_[next_]);
    }
  }

  bool alone_, afresh_;
  std::int64_t units_;
  T *matrix_;
  std::vector<Slice<T>> slices_;
  std::int64_t parts_ = 1, height_, width_;
  std::vector<std::vector<T> *> sums_; // of the parts that are complete
  std::size_t next_ = 0;               // part to add
  std::mutex mutex_;
};

} // namespace lmc
