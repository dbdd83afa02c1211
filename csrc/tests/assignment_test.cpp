// The solver without Python, for sanitizers: random matrices of many kinds, several threads at
// once. Exits with 1 if a certificate is not exactly tight, threads disagree or a solve takes more
// memory beside the matrix than it may.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "assignment.hpp"
#include "parallel.hpp"

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

struct Answer {
  lmc::AssignmentReport report;
  std::vector<std::int64_t> cols;
  std::vector<double> u, v, margins, regrets;
};

template <class T> std::vector<T> random_matrix(std::mt19937 &random, std::int64_t size, int kind) {
  std::vector<T> values(static_cast<std::size_t>(size));
  std::uniform_real_distribution<T> uniform;
  for (T &x : values) {
    x = uniform(random);
    if (kind == 1) {
      x = std::floor(4 * x);
    } else if (kind == 2) {
      x = 1;
    } else if (kind == 3 && x < T(0.2)) {
      x = std::numeric_limits<T>::infinity();
    }
  }
  return values;
}

template <class T>
Answer solve(const std::vector<T> &values, std::int64_t rows, std::int64_t cols, bool by_column,
             int threads) {
  Answer answer{{},
                std::vector<std::int64_t>(static_cast<std::size_t>(rows)),
                std::vector<double>(static_cast<std::size_t>(rows)),
                std::vector<double>(static_cast<std::size_t>(cols)),
                std::vector<double>(static_cast<std::size_t>(rows)),
                std::vector<double>(static_cast<std::size_t>(rows))};
  lmc::AssignmentOptions options;
  options.threads = threads;
  const lmc::CostMatrix cost{values.data(), sizeof(T) == 8,       rows,
                             cols,          by_column ? 1 : cols, by_column ? rows : 1};
  answer.report = lmc::solve_assignment(cost, options,
                                        {answer.cols.data(), answer.u.data(), answer.v.data(),
                                         answer.margins.data(), answer.regrets.data()});
  return answer;
}

// Of all bits of an answer (Fowler, Noll and Vo's hash).
std::uint64_t digest_of(const Answer &answer) {
  std::uint64_t hash = 14695981039346656037u;
  const auto add = [&hash](const void *data, std::size_t size) {
    for (std::size_t k = 0; k < size; ++k) {
      hash = (hash ^ static_cast<const unsigned char *>(data)[k]) * 1099511628211u;
    }
  };
  add(answer.cols.data(), answer.cols.size() * sizeof(std::int64_t));
  for (const std::vector<double> *values :
       {&answer.u, &answer.v, &answer.margins, &answer.regrets}) {
    add(values->data(), values->size() * sizeof(double));
  }
  return hash;
}

template <class T> bool check(unsigned seed, std::atomic<std::uint64_t> &digest) {
  std::mt19937 random(seed);
  const int kind = static_cast<int>(seed % 4);
  const std::int64_t rows = 1 + static_cast<std::int64_t>(random() % 420);
  const std::int64_t cols = random() % 2 ? rows : 1 + static_cast<std::int64_t>(random() % 420);
  const std::vector<T> values = random_matrix<T>(random, rows * cols, kind);
  const bool by_column = random() % 2 == 0;
  const Answer one = solve(values, rows, cols, by_column, 1);
  const Answer four = solve(values, rows, cols, by_column, 4);
  if (one.report.status == lmc::AssignmentStatus::infeasible) {
    return kind == 3 && four.report.status == one.report.status;
  }
  digest ^= digest_of(one);
  return one.report.status == lmc::AssignmentStatus::ok && one.report.gap == 0 &&
         one.cols == four.cols && one.u == four.u && one.v == four.v && one.regrets == four.regrets;
}

// Nearly rank one, on which the searches are longest; with dead rows and columns; few values.
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

int check_memory() {
  const std::int64_t shapes[][2] = {{1024, 1024}, {2048, 2048}, {1024, 4096}, {4096, 1024}};
  int failures = 0;
  for (const auto &shape : shapes) {
    for (int kind = 0; kind < 4; ++kind) {
      const double share = std::max(
          extra_memory<float>(shape[0], shape[1], kind),
          shape[0] * shape[1] > (1 << 20) ? 0.0 : extra_memory<double>(shape[0], shape[1], kind));
      std::printf("%ld x %ld, kind %d: %.1f %% of the matrix\n", static_cast<long>(shape[0]),
                  static_cast<long>(shape[1]), kind, 100 * share);
      failures += share > 0.1;
    }
  }
  return failures;
}

} // namespace

int main() {
  std::atomic<int> failures{check_memory()};
  std::atomic<std::uint64_t> digest{0};
  lmc::parallel_for(200, 1, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t seed = begin; seed < end; ++seed) {
      if (!check<float>(static_cast<unsigned>(seed), digest) ||
          !check<double>(static_cast<unsigned>(seed), digest)) {
        std::printf("seed %ld failed\n", static_cast<long>(seed));
        ++failures;
      }
    }
  });
  std::printf("digest %016lx\n", static_cast<unsigned long>(digest.load()));
  std::printf("%d failures\n", failures.load());
  return failures == 0 ? 0 : 1;
}
