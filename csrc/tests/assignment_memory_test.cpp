// The solver's own memory. Exits with 1 if a solve takes more beside the matrix than it may.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <vector>

#include "assignment_problems.hpp"

namespace {

// Bytes in use, counted while one thread solves: a header in front of every block keeps its size.
std::atomic<std::int64_t> in_use{0};
std::atomic<std::int64_t> most_in_use{0};
constexpr std::size_t header = alignof(std::max_align_t);

} // namespace

[[gnu::noinline]] void *operator new(std::size_t size) {
  auto *block = static_cast<std::size_t *>(std::malloc(size + header));
  if (!block) {
    throw std::bad_alloc();
  }
  *block = size;
  const std::int64_t now = in_use += static_cast<std::int64_t>(size);
  std::int64_t most = most_in_use;
  while (most < now && !most_in_use.compare_exchange_weak(most, now)) {
  }
  return reinterpret_cast<char *>(block) + header;
}

[[gnu::noinline]] void operator delete(void *at) noexcept {
  if (at) {
    void *block = static_cast<char *>(at) - header;
    in_use -= static_cast<std::int64_t>(*static_cast<std::size_t *>(block));
    std::free(block);
  }
}

void operator delete(void *at, std::size_t) noexcept { operator delete(at); }

namespace {

// Uniform; few values; with dead rows and columns; nearly rank one, on which the searches are
// longest; eight copies of every column.
template <class T>
std::vector<T> memory_matrix(std::mt19937 &random, std::int64_t rows, std::int64_t cols, int kind) {
  std::vector<T> values = random_matrix<T>(random, rows * cols, kind == 1);
  const std::vector<T> x = random_matrix<T>(random, 2 * rows, 0);
  const std::vector<T> y = random_matrix<T>(random, 2 * cols, 0);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < cols; ++j) {
      T &value = values[static_cast<std::size_t>(i * cols + j)];
      const auto a = static_cast<std::size_t>(2 * i);
      const auto b = static_cast<std::size_t>(2 * j);
      if (kind == 2) {
        value = i % 3 && j % 3 ? value : T(0);
      } else if (kind == 3) {
        value = x[a] * y[b] + T(0.01) * x[a + 1] * y[b + 1];
      } else if (kind == 4) {
        value = values[static_cast<std::size_t>(i * cols + j % (cols / 8))];
      }
    }
  }
  return values;
}

// The largest share of the matrix that solving it takes besides, the answer not counted.
template <class T> double extra_memory(std::int64_t rows, std::int64_t cols, int kind) {
  std::mt19937 random(7);
  const std::vector<T> values = memory_matrix<T>(random, rows, cols, kind);
  double most = 0;
  for (const bool by_column : {false, true}) {
    const std::int64_t height = by_column ? cols : rows;
    const std::int64_t width = by_column ? rows : cols;
    const auto answer = static_cast<std::int64_t>(4 * 8 * height + 8 * width);
    const std::int64_t before = in_use;
    most_in_use = before;
    solve(values, height, width, by_column, 2);
    most = std::max(most, static_cast<double>(most_in_use - before - answer));
  }
  return most / static_cast<double>(values.size() * sizeof(T));
}

} // namespace

int main() {
  const std::int64_t shapes[][2] = {{1024, 1024}, {2048, 2048}, {1024, 4096}, {4096, 1024}};
  int failures = 0;
  for (const auto &shape : shapes) {
    for (int kind = 0; kind < 5; ++kind) {
      const double share = std::max(
          extra_memory<float>(shape[0], shape[1], kind),
          shape[0] * shape[1] > (1 << 20) ? 0.0 : extra_memory<double>(shape[0], shape[1], kind));
      std::printf("%ld x %ld, kind %d: %.1f %% of the matrix\n", static_cast<long>(shape[0]),
                  static_cast<long>(shape[1]), kind, 100 * share);
      failures += share > 0.1;
    }
  }
  return failures == 0 ? 0 : 1;
}
