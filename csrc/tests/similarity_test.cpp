// The similarity products without Python, for ThreadSanitizer: several matrices at a time, by every
// instruction set that runs here, against plain loops and against one thread.
#include <cmath>
#include <cstdio>
#include <random>

#include "instruction_set.hpp"
#include "similarity_cpu.hpp"

namespace {

std::vector<float> normal_numbers(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<std::size_t>(count));
  for (float &number : numbers) {
    number = normal(generator);
  }
  return numbers;
}

double product(const lmc::ProductSum<float> &sum, std::int64_t i, std::int64_t j) {
  double total = 0;
  for (std::int64_t t = 0; t < sum.rows; ++t) {
    for (std::int64_t k = 0; k < sum.block; ++k) {
      const auto number = [&](const lmc::UnitRows<float> &of, std::int64_t unit, std::int64_t row) {
        return double{of.data[unit * of.unit_stride + row * of.row_stride + k * of.block_stride]};
      };
      const double taken = sum.rows_last ? number(sum.b, j, sum.rows_last[t]) : 0.0;
      total += number(sum.a, i, lmc::source_row(sum.rows_a, t)) *
               (number(sum.b, j, lmc::source_row(sum.rows_b, t)) - taken);
    }
  }
  return total;
}

} // namespace

int main() {
  constexpr std::int64_t rows = 90;
  constexpr std::int64_t block = 9;
  constexpr std::int64_t sizes[] = {100, 7, 520};
  std::vector<std::int64_t> order;
  std::vector<std::int64_t> last;
  for (std::int64_t t = 0; t < rows; ++t) {
    order.push_back(t * 7 % rows);
    last.push_back(t * 11 % rows);
  }
  const std::vector<float> a = normal_numbers(520 * rows * block, 0);
  const std::vector<float> b = normal_numbers(520 * rows * block, 1);
  int wrong = 0;
  for (int set = 0; set <= lmc::best_instruction_set(); ++set) {
    std::vector<std::vector<float>> expected;
    for (const int threads : {1, 4}) {
      std::vector<std::vector<float>> found;
      std::vector<lmc::SimilarityUpdate<float>> updates;
      for (const std::int64_t n : sizes) {
        found.emplace_back(static_cast<std::size_t>(n * n));
        const lmc::UnitRows<float> left{a.data(), rows * block, block, 1};
        const lmc::UnitRows<float> right{b.data(), block, n * block, 1};
        updates.push_back({{{left, right, rows, block, nullptr, order.data(), nullptr},
                            {left, right, rows, block, order.data(), order.data(), last.data()}},
                           n,
                           found.back().data(),
                           set % 2 == 0});
      }
      lmc::add_products(updates, set, threads, [] { return false; });
      for (const lmc::SimilarityUpdate<float> &update : updates) {
        for (std::int64_t i = 0; i < update.units; i += 37) {
          for (std::int64_t j = 0; j < update.units; j += 23) {
            const double exact = product(update.sums[0], i, j) + product(update.sums[1], i, j);
            wrong += std::abs(update.similarity[i * update.units + j] - exact) > 1e-3;
          }
        }
      }
      wrong += threads > 1 && found != expected;
      expected = found;
    }
  }
  std::printf("similarity products: %d wrong\n", wrong);
  return wrong != 0;
}
