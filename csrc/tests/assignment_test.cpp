// The solver without Python, for sanitizers: random matrices of many kinds, several threads at
// once. Exits with 1 if a certificate is not exactly tight or threads disagree.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "assignment.hpp"
#include "parallel.hpp"

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

template <class T> bool check(unsigned seed) {
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
  return one.report.status == lmc::AssignmentStatus::ok && one.report.gap == 0 &&
         one.cols == four.cols && one.u == four.u && one.v == four.v && one.regrets == four.regrets;
}

} // namespace

int main() {
  std::atomic<int> failures{0};
  lmc::parallel_for(200, 1, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t seed = begin; seed < end; ++seed) {
      if (!check<float>(static_cast<unsigned>(seed)) ||
          !check<double>(static_cast<unsigned>(seed))) {
        std::printf("seed %ld failed\n", static_cast<long>(seed));
        ++failures;
      }
    }
  });
  std::printf("%d failures\n", failures.load());
  return failures == 0 ? 0 : 1;
}
