// Random problems of many kinds for the tests of the solver without Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "assignment.hpp"

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

// Rows and columns that come from a few kinds.
template <class T>
std::vector<T> copied_matrix(std::mt19937 &random, std::int64_t rows, std::int64_t cols) {
  const std::int64_t kinds[2] = {1 + static_cast<std::int64_t>(random()) % rows,
                                 1 + static_cast<std::int64_t>(random()) % cols};
  const std::vector<T> base = random_matrix<T>(random, rows * cols, random() % 2 ? 0 : 3);
  std::vector<std::int64_t> kind(static_cast<std::size_t>(cols));
  for (std::int64_t &k : kind) {
    k = static_cast<std::int64_t>(random()) % kinds[1];
  }
  std::vector<T> values(base.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t from = static_cast<std::int64_t>(random()) % kinds[0];
    for (std::int64_t j = 0; j < cols; ++j) {
      values[static_cast<std::size_t>(i * cols + j)] =
          base[static_cast<std::size_t>(from * cols + kind[static_cast<std::size_t>(j)])];
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
