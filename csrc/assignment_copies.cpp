#include "assignment_copies.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include "simd.hpp"

namespace lmc {
namespace {

constexpr std::uint64_t odd = 0x9e3779b97f4a7c15;

std::uint64_t mixed(std::uint64_t key, std::uint64_t value) {
  key = (key ^ value) * odd;
  return key ^ (key >> 29);
}

using Word __attribute__((may_alias)) = std::uint32_t;

// Shifted first: only high bits differ between small integers in floating point.
LMC_CLONES void mix_lanes(const Word *row, std::uint32_t *sums, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) {
    sums[k] = (sums[k] + (row[k] ^ (row[k] >> 16))) * 0x9e3779b1u;
  }
}

// The kinds of lines with the given keys; alike(k, first) decides for equal keys. `copies` counts
// the lines that are not the first of their kind, but for those that `counts` leaves out.
struct Kinds {
  std::vector<std::int64_t> kind, first;
  std::int64_t copies = 0;
};
template <class Alike, class Counts>
Kinds kinds_of(const std::vector<std::uint64_t> &keys, const Alike &alike, const Counts &counts) {
  constexpr int patience = 4; // comparisons with others of the same key
  const auto lines = static_cast<std::int64_t>(keys.size());
  const std::uint64_t mask = std::bit_ceil(2 * keys.size()) - 1;
  std::vector<std::int32_t> table(mask + 1, -1);
  Kinds kinds{std::vector<std::int64_t>(keys.size()), {}};
  for (std::int64_t k = 0; k < lines; ++k) {
    int left = patience;
    std::int64_t found = -1;
    std::uint64_t at = (keys[k] * odd >> 20) & mask;
    for (; table[at] >= 0 && found < 0 && left > 0; at = (at + 1) & mask) {
      const std::int64_t first = kinds.first[table[at]];
      if (keys[first] == keys[k]) {
        found = alike(k, first) ? table[at] : -1;
        --left;
      }
    }
    if (found >= 0) {
      kinds.copies += counts(k);
    } else {
      found = static_cast<std::int64_t>(kinds.first.size());
      kinds.first.push_back(k);
      if (left > 0) {
        table[at] = static_cast<std::int32_t>(found);
      }
    }
    kinds.kind[k] = found;
  }
  return kinds;
}

constexpr auto always = [](std::int64_t, std::int64_t) { return true; };

// Nothing unless seven eighths of the rows are copies: fewer hardly slow the lists, and make
// shortest paths between kinds of columns longer.
template <class T> Kinds row_kinds(const RowMatrix<T> &matrix, const Findings<T> &findings) {
  std::vector<std::uint64_t> keys(matrix.rows);
  const auto add = [](std::uint64_t key, T value) {
    return mixed(key, std::bit_cast<std::uint64_t>(static_cast<double>(value)));
  };
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    keys[i] = add(add(add(0, findings.best[i]), findings.least[i]), findings.smallest[i]);
  }
  const auto varies = [&](std::int64_t i) { return findings.best[i] > findings.least[i]; };
  if (8 * kinds_of(keys, always, varies).copies < 7 * matrix.rows) {
    return {};
  }
  // What the survey saw is the same for many rows of few values, so some entries have their say.
  const std::int64_t middle = matrix.cols / 2;
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    for (std::int64_t j = middle; j < std::min(middle + 16, matrix.cols); ++j) {
      keys[i] = add(keys[i], matrix.row(i)[j]);
    }
  }
  const auto alike = [&](std::int64_t i, std::int64_t first) {
    return std::memcmp(matrix.row(i), matrix.row(first), matrix.cols * sizeof(T)) == 0;
  };
  Kinds kinds = kinds_of(keys, alike, varies);
  return 8 * kinds.copies < 7 * matrix.rows ? Kinds{} : kinds;
}

// By the sums of a few rows, of some more, and of all that differ, as long as a quarter of the
// columns are copies.
template <class T>
Kinds col_kinds(const RowMatrix<T> &matrix, const Findings<T> &findings, const Kinds &rows,
                Interrupt &interrupt) {
  constexpr std::int64_t lanes = sizeof(T) / sizeof(std::uint32_t);
  const auto varies = [&](std::int64_t j) {
    return findings.column_constant.empty() || !findings.column_constant[j];
  };
  Kinds kinds;
  const auto height =
      rows.first.empty() ? matrix.rows : static_cast<std::int64_t>(rows.first.size());
  for (const std::int64_t looks : {std::int64_t{4}, std::int64_t{24}, height}) {
    std::vector<std::uint32_t> sums(matrix.cols * lanes);
    const std::int64_t step = std::max<std::int64_t>(1, height / looks);
    for (std::int64_t k = 0; k < height && !interrupt(matrix.cols); k += step) {
      const T *row = matrix.row(rows.first.empty() ? k : rows.first[k]);
      mix_lanes(reinterpret_cast<const Word *>(row), sums.data(), matrix.cols * lanes);
    }
    std::vector<std::uint64_t> keys(matrix.cols);
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      for (std::int64_t lane = 0; lane < lanes; ++lane) {
        keys[j] = mixed(keys[j], sums[j * lanes + lane]);
      }
    }
    kinds = kinds_of(keys, always, varies);
    if (4 * kinds.copies < matrix.cols) {
      return {};
    }
  }
  return kinds;
}

void all_different(Kinds &kinds, std::int64_t lines) {
  if (kinds.first.empty()) {
    kinds.first.resize(lines);
    std::iota(kinds.first.begin(), kinds.first.end(), std::int64_t{0});
    kinds.kind = kinds.first;
  }
}

} // namespace

template <class T>
Copies find_copies(const RowMatrix<T> &matrix, const Findings<T> &findings, Interrupt &interrupt) {
  Kinds rows = row_kinds(matrix, findings);
  Kinds cols = col_kinds(matrix, findings, rows, interrupt);
  if (rows.first.empty() && cols.first.empty()) {
    return {};
  }
  all_different(rows, matrix.rows);
  all_different(cols, matrix.cols);
  return {std::move(rows.kind), std::move(cols.kind), std::move(rows.first), std::move(cols.first)};
}

template Copies find_copies(const RowMatrix<float> &, const Findings<float> &, Interrupt &);
template Copies find_copies(const RowMatrix<double> &, const Findings<double> &, Interrupt &);

} // namespace lmc
