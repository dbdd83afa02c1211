#include "assignment_ties.hpp"

#include <algorithm>
#include <bit>

namespace lmc {
namespace {

// Rectangular problems are squared by identical dummies, held as one node: with rows < cols a dummy
// row that can hold any spare column, with rows > cols a dummy column that any spare row can take.
class TieBreaker {
public:
  TieBreaker(const TightGraph &graph, const std::vector<char> &spare, const std::int64_t *prefer,
             std::vector<std::int64_t> &col_of, Interrupt &interrupt)
      : graph_(graph), spare_(spare), prefer_(prefer), col_of_(col_of), interrupt_(interrupt),
        row_of_(graph.cols, -1), fixed_(graph.words, 0), seen_(graph.words, 0),
        via_(graph.cols + 1), row_potential_(prefer ? graph.rows + 1 : 0),
        col_potential_(prefer ? graph.cols + 1 : 0), wanted_(prefer ? graph.rows : 0, -1) {
    for (std::int64_t i = 0; i < graph.rows; ++i) {
      if (col_of[i] >= 0) {
        row_of_[col_of[i]] = i;
      }
    }
  }

  // Maximum agreement is an assignment problem on the tight graph with weight -1 on preferred
  // pairs. The weights are switched on one row at a time; each switch needs one search.
  bool agree() {
    for (std::int64_t i = 0; i < graph_.rows; ++i) {
      const std::int64_t j = prefer_[i];
      if (j < 0 || j >= graph_.cols || !graph_.has(i, j)) {
        continue;
      }
      const bool loose = weight(i, j) - row_potential_[i] - col_potential_[j] > 0;
      wanted_[i] = j;
      if (col_of_[i] != j && loose) {
        continue;
      }
      if (col_of_[i] == j) {
        --row_potential_[i];
        continue;
      }
      const std::int64_t target = current(i);
      begin_search();
      if (search(j, target)) {
        rotate(i, j, target);
        --row_potential_[i];
      } else {
        shift_reached();
      }
      if (interrupt_.stopped()) {
        return false;
      }
    }
    return true;
  }

  // Row by row the smallest column that some optimum gives it, all earlier rows being fixed.
  void lexicographic() {
    for (std::int64_t i = 0; i < graph_.rows; ++i) {
      const std::int64_t target = current(i);
      bool fresh = true;
      for (std::int64_t w = 0; w * 64 < target; ++w) {
        std::uint64_t word = graph_.bits[i * graph_.words + w] & ~fixed_[w];
        if ((w + 1) * 64 > target) {
          word &= (std::uint64_t{1} << (target % 64)) - 1;
        }
        for (; word; word &= word - 1) {
          const std::int64_t j = w * 64 + std::countr_zero(word);
          if (!usable(i, j)) {
            continue;
          }
          if (fresh) {
            begin_search();
            fresh = false;
          }
          if (!is_seen(j) && search(j, target)) {
            rotate(i, j, target);
            w = graph_.words;
            break;
          }
        }
      }
      if (col_of_[i] >= 0) {
        fixed_[col_of_[i] / 64] |= std::uint64_t{1} << (col_of_[i] % 64);
      }
      first_open_ = i + 1;
      if (interrupt_(graph_.words)) {
        return;
      }
    }
  }

private:
  struct Step {
    std::int64_t row, from; // the row that moves here and the column it comes from
  };

  std::int64_t dummy_row() const { return graph_.rows; }
  std::int64_t dummy_col() const { return graph_.cols; }
  std::int64_t current(std::int64_t i) const { return col_of_[i] < 0 ? dummy_col() : col_of_[i]; }
  std::int64_t weight(std::int64_t i, std::int64_t j) const {
    return i < graph_.rows && wanted_[i] == j ? -1 : 0;
  }
  bool usable(std::int64_t i, std::int64_t j) const {
    return !prefer_ || weight(i, j) == row_potential_[i] + col_potential_[j];
  }
  bool is_seen(std::int64_t j) const { return (seen_[j / 64] >> (j % 64)) & 1; }

  void begin_search() {
    std::fill(seen_.begin(), seen_.end(), 0);
    reached_.clear();
    dummy_row_seen_ = dummy_col_seen_ = false;
  }

  void reach(std::int64_t j, std::int64_t row, std::int64_t from) {
    via_[j] = {row, from};
    reached_.push_back(j);
    if (j == dummy_col()) {
      dummy_col_seen_ = true;
    } else {
      seen_[j / 64] |= std::uint64_t{1} << (j % 64);
    }
  }

  // Searches for a chain of moves that starts with the holder of `source` giving it up and ends in
  // `target`. What earlier searches of the same row reached is known to fail and stays marked.
  bool search(std::int64_t source, std::int64_t target) {
    std::size_t head = reached_.size();
    reach(source, -1, -1);
    for (; head < reached_.size(); ++head) {
      const std::int64_t at = reached_[head];
      if (at == target) {
        return true;
      }
      if (at == dummy_col()) {
        for (std::int64_t k = first_open_; k < graph_.rows; ++k) {
          if (col_of_[k] < 0 && expand(k, at, target)) {
            return true;
          }
        }
      } else if (row_of_[at] >= 0) {
        if (expand(row_of_[at], at, target)) {
          return true;
        }
      } else if (!dummy_row_seen_) {
        dummy_row_seen_ = true;
        if (expand_dummy_row(at, target)) {
          return true;
        }
      }
    }
    return false;
  }

  bool expand(std::int64_t k, std::int64_t from, std::int64_t target) {
    interrupt_(graph_.words);
    const std::uint64_t *row = graph_.bits.data() + k * graph_.words;
    if (target < graph_.cols && graph_.has(k, target) && !is_seen(target) && usable(k, target)) {
      reach(target, k, from);
      return true;
    }
    for (std::int64_t w = 0; w < graph_.words; ++w) {
      for (std::uint64_t word = row[w] & ~seen_[w] & ~fixed_[w]; word; word &= word - 1) {
        const std::int64_t j = w * 64 + std::countr_zero(word);
        if (usable(k, j)) {
          reach(j, k, from);
        }
      }
    }
    if (graph_.rows > graph_.cols && spare_[k] && !dummy_col_seen_ && usable(k, dummy_col())) {
      reach(dummy_col(), k, from);
      return target == dummy_col();
    }
    return false;
  }

  bool expand_dummy_row(std::int64_t from, std::int64_t target) {
    for (std::int64_t j = 0; j < graph_.cols; ++j) {
      const bool fixed = (fixed_[j / 64] >> (j % 64)) & 1;
      if (spare_[j] && !fixed && !is_seen(j) && usable(dummy_row(), j)) {
        reach(j, dummy_row(), from);
        if (j == target) {
          return true;
        }
      }
    }
    return false;
  }

  // Row i takes `source`; everybody on the chain moves one step on, the last into `target`.
  void rotate(std::int64_t i, std::int64_t source, std::int64_t target) {
    for (std::int64_t at = target; at != source;) {
      const Step step = via_[at];
      place(step.row, at);
      at = step.from;
    }
    place(i, source);
  }

  void place(std::int64_t row, std::int64_t col) {
    if (col != dummy_col()) {
      row_of_[col] = row == dummy_row() ? -1 : row;
    }
    if (row != dummy_row()) {
      col_of_[row] = col == dummy_col() ? -1 : col;
    }
  }

  // No cycle of weight -1: raise the potentials of what was reached so that no reduced cost is
  // negative.
  void shift_reached() {
    for (const std::int64_t j : reached_) {
      --col_potential_[j];
      if (j == dummy_col()) {
        for (std::int64_t k = 0; k < graph_.rows; ++k) {
          row_potential_[k] += col_of_[k] < 0;
        }
      } else if (row_of_[j] >= 0) {
        ++row_potential_[row_of_[j]];
      }
    }
    row_potential_[dummy_row()] += dummy_row_seen_;
  }

  const TightGraph &graph_;
  const std::vector<char> &spare_;
  const std::int64_t *prefer_;
  std::vector<std::int64_t> &col_of_;
  Interrupt &interrupt_;
  std::vector<std::int64_t> row_of_;
  std::vector<std::uint64_t> fixed_, seen_;
  std::vector<Step> via_;
  std::vector<std::int64_t> row_potential_, col_potential_, wanted_, reached_;
  std::int64_t first_open_ = 0;
  bool dummy_row_seen_ = false, dummy_col_seen_ = false;
};

} // namespace

TightGraph TightGraph::transposed() const {
  TightGraph result(cols, rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t w = 0; w < words; ++w) {
      for (std::uint64_t word = bits[i * words + w]; word; word &= word - 1) {
        result.add(w * 64 + std::countr_zero(word), i);
      }
    }
  }
  return result;
}

void canonical_optimum(const TightGraph &graph, const std::vector<char> &spare,
                       const std::int64_t *prefer, std::vector<std::int64_t> &col_of,
                       Interrupt &interrupt) {
  TieBreaker breaker(graph, spare, prefer, col_of, interrupt);
  if (!prefer || breaker.agree()) {
    breaker.lexicographic();
  }
}

} // namespace lmc
