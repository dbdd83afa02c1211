#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lmc {

// An array that takes nothing from the heap while it is small: there an allocation would cost as
// much as the reading of several rows.
template <class T> class Scratch {
public:
  Scratch() = default;
  explicit Scratch(std::int64_t count) { resize(count); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  // Leaves the values undefined.
  void resize(std::int64_t count) {
    const bool is_small = count <= static_cast<std::int64_t>(near_.size());
    if (!is_small) {
      far_.resize(static_cast<std::size_t>(count));
    }
    data_ = is_small ? near_.data() : far_.data();
  }

  T *data() { return data_; }
  const T *data() const { return data_; }
  T &operator[](std::int64_t k) { return data_[k]; }
  const T &operator[](std::int64_t k) const { return data_[k]; }

private:
  std::array<T, 64> near_;
  std::vector<T> far_;
  T *data_ = near_.data();
};

} // namespace lmc
