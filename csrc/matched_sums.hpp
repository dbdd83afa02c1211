#pragma once

#include <cmath>
#include <cstdint>

namespace lmc {

// Sums of a (units, units) row-major matrix over its diagonal, over the columns `current` and over
// `target`, that of the magnitudes of the last, and how many columns differ.
struct MatchedSums {
  double identity = 0, before = 0, after = 0, magnitude = 0;
  std::int64_t moved = 0;
};

template <class T>
MatchedSums matched_sums(const T *similarity, std::int64_t units, const std::int64_t *current,
                         const std::int64_t *target) {
  MatchedSums sums;
  for (std::int64_t i = 0; i < units; ++i) {
    const T *const row = similarity + i * units;
    const auto wanted = static_cast<double>(row[target[i]]);
    sums.identity += static_cast<double>(row[i]);
    sums.before += static_cast<double>(row[current[i]]);
    sums.after += wanted;
    sums.magnitude += std::abs(wanted);
    sums.moved += current[i] != target[i];
  }
  return sums;
}

// Writes where two lists differ to the first of three rows of `count` numbers, and both lists there
// to the others. Returns how many.
inline std::int64_t changed_rows(const std::int64_t *rows, const std::int64_t *last,
                                 std::int64_t count, std::int64_t *out) {
  std::int64_t found = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    if (rows[k] != last[k]) {
      out[found] = k;
      out[count + found] = rows[k];
      out[2 * count + found] = last[k];
      ++found;
    }
  }
  return found;
}

} // namespace lmc
