// The solver without Python, for sanitizers: random matrices of many kinds, several threads at
// once. Exits with 1 if a certificate is not exactly tight or threads disagree.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "assignment_problems.hpp"
#include "parallel.hpp"

namespace {

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
  const int kind = static_cast<int>(seed % 5);
  const std::int64_t rows = 1 + static_cast<std::int64_t>(random() % 420);
  const std::int64_t cols = random() % 2 ? rows : 1 + static_cast<std::int64_t>(random() % 420);
  const std::vector<T> values = kind == 4 ? copied_matrix<T>(random, rows, cols)
                                          : random_matrix<T>(random, rows * cols, kind);
  const bool by_column = random() % 2 == 0;
  const Answer one = solve(values, rows, cols, by_column, 1);
  const Answer four = solve(values, rows, cols, by_column, 4);
  if (one.report.status == lmc::AssignmentStatus::infeasible) {
    return kind >= 3 && four.report.status == one.report.status;
  }
  digest ^= digest_of(one);
  return one.report.status == lmc::AssignmentStatus::ok && one.report.gap == 0 &&
         one.cols == four.cols && one.u == four.u && one.v == four.v && one.regrets == four.regrets;
}

} // namespace

int main() {
  std::atomic<int> failures{0};
  std::atomic<std::uint64_t> digest{0};
  lmc::parallel_for(250, 1, 4, [&](std::int64_t begin, std::int64_t end) {
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
