#include "assignment_favourites.hpp"

#include <algorithm>
#include <bit>
#include <vector>

namespace lmc {
namespace {

class FavouriteMatcher {
public:
  FavouriteMatcher(const TightGraph &favourites, Matching &matching, Interrupt &interrupt)
      : graph_(favourites), matching_(matching), interrupt_(interrupt),
        free_(favourites.words, ~std::uint64_t{0}), via_(favourites.cols),
        budget_(16 * favourites.rows * favourites.words) {}

  bool run() {
    std::vector<std::int64_t> left;
    for (std::int64_t i = 0; i < graph_.rows; ++i) {
      if (!take_first(i)) {
        left.push_back(i);
      }
    }
    return std::all_of(left.begin(), left.end(), [this](std::int64_t i) { return augment(i); });
  }

private:
  const std::uint64_t *row(std::int64_t i) const { return graph_.bits.data() + i * graph_.words; }

  // The first favourite that is free. True for rows without any, too.
  bool take_first(std::int64_t i) {
    interrupt_(graph_.words);
    bool any = false;
    for (std::int64_t w = 0; w < graph_.words; ++w) {
      const std::uint64_t word = row(i)[w];
      any = any || word;
      if (const std::uint64_t open = word & free_[w]) {
        place(i, w * 64 + std::countr_zero(open));
        return true;
      }
    }
    return !any;
  }

  void place(std::int64_t i, std::int64_t j) {
    free_[j / 64] &= ~(std::uint64_t{1} << (j % 64));
    matching_.col_of[i] = j;
    matching_.row_of[j] = i;
  }

  // Breadth first to a free column, and everybody on the way moves one step on.
  bool augment(std::int64_t start) {
    unseen_.assign(graph_.words, ~std::uint64_t{0});
    queue_.assign(1, start);
    for (std::size_t head = 0; head < queue_.size(); ++head) {
      budget_ -= graph_.words;
      if (interrupt_(graph_.words) || budget_ < 0) {
        return false;
      }
      const std::int64_t i = queue_[head];
      for (std::int64_t w = 0; w < graph_.words; ++w) {
        const std::uint64_t open = row(i)[w] & unseen_[w];
        if (const std::uint64_t found = open & free_[w]) {
          shift(start, i, w * 64 + std::countr_zero(found));
          return true;
        }
        unseen_[w] &= ~open;
        for (std::uint64_t word = open; word; word &= word - 1) {
          const std::int64_t j = w * 64 + std::countr_zero(word);
          via_[j] = i;
          queue_.push_back(matching_.row_of[j]);
        }
      }
    }
    return false;
  }

  void shift(std::int64_t start, std::int64_t i, std::int64_t j) {
    while (true) {
      const std::int64_t before = matching_.col_of[i];
      place(i, j);
      if (i == start) {
        return;
      }
      j = before;
      i = via_[j];
    }
  }

  const TightGraph &graph_;
  Matching &matching_;
  Interrupt &interrupt_;
  std::vector<std::uint64_t> free_, unseen_;
  std::vector<std::int64_t> via_, queue_; // the row that wants a column; rows that are reached
  std::int64_t budget_;                   // words to be looked at
};

} // namespace

bool match_favourites(const TightGraph &favourites, Matching &matching, Interrupt &interrupt) {
  if (!FavouriteMatcher(favourites, matching, interrupt).run()) {
    return false;
  }
  std::int64_t left = 0;
  for (std::int64_t i = 0; i < favourites.rows; ++i) {
    if (matching.col_of[i] < 0) {
      left = std::find(matching.row_of.begin() + left, matching.row_of.end(), -1) -
             matching.row_of.begin();
      matching.col_of[i] = left;
      matching.row_of[left] = i;
    }
  }
  return true;
}

} // namespace lmc
