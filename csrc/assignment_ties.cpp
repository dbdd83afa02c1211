#include "assignment_ties.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace lmc {
namespace {

// Rows that have the same column in every optimum, and these columns: one bit each.
struct Forced {
  std::vector<std::uint64_t> rows, cols;
  std::int64_t count = 0;
};

// Whether row i has at most one column but for those taken.
bool has_one(const TightGraph &graph, std::int64_t i, const std::vector<std::uint64_t> &taken) {
  const std::uint64_t *row = graph.bits.data() + i * graph.words;
  bool one = false;
  bool more = false;
  for (std::int64_t w = 0; w < graph.words && !more; ++w) {
    const std::uint64_t open = row[w] & ~taken[w];
    more = (open & (open - 1)) || (open && one);
    one = one || open;
  }
  return !more;
}

// A row with one column to go to has it; nobody else does then. Where the optimum is unique this
// settles every row (a bipartite graph with one perfect matching has a vertex with one edge on
// either side).
Forced forced_rows(const TightGraph &graph, const std::vector<char> &spare,
                   std::span<const std::int64_t> col_of, Interrupt &interrupt) {
  constexpr int rounds = 16;
  Forced forced{std::vector<std::uint64_t>((graph.rows + 63) / 64),
                std::vector<std::uint64_t>(graph.words)};
  std::int64_t before = -1;
  for (int round = 0; round < rounds && forced.count > before; ++round) {
    before = forced.count;
    interrupt(graph.rows * graph.words);
    const bool up = round % 2 == 0;
    for (std::size_t step = 0; step < forced.rows.size(); ++step) {
      const std::size_t at = up ? step : forced.rows.size() - 1 - step;
      const auto first = static_cast<std::int64_t>(64 * at);
      const std::int64_t height = std::min<std::int64_t>(64, graph.rows - first);
      std::uint64_t left = ~forced.rows[at] & (~std::uint64_t{0} >> (64 - height));
      while (left) {
        const int k = up ? std::countr_zero(left) : 63 - std::countl_zero(left);
        left ^= std::uint64_t{1} << k;
        const std::int64_t i = first + k;
        const std::int64_t j = col_of[i];
        const bool may_stay_free = graph.rows > graph.cols && spare[i];
        if (j >= 0 && !may_stay_free && has_one(graph, i, forced.cols)) {
          forced.rows[at] |= std::uint64_t{1} << k;
          forced.cols[j / 64] |= std::uint64_t{1} << (j % 64);
          ++forced.count;
        }
      }
    }
  }
  return forced;
}

// Rectangular problems are squared by identical dummies, held as one node: with rows < cols a dummy
// row that can hold any spare column, with rows > cols a dummy column that any spare row can take.
class TieBreaker {
public:
  TieBreaker(const TightGraph &graph, Forced forced, const std::vector<char> &spare,
             const std::int64_t *prefer, std::span<std::int64_t> col_of, Interrupt &interrupt)
      : graph_(graph), spare_(spare), prefer_(prefer), col_of_(col_of), interrupt_(interrupt),
        row_of_(graph.cols, -1), fixed_(std::move(forced.cols)), seen_(graph.words, 0),
        fixed_rows_(std::move(forced.rows)), via_(graph.cols + 1), onward_(graph.cols, -1),
        row_potential_(prefer ? graph.rows + 1 : 0), col_potential_(prefer ? graph.cols + 1 : 0),
        wanted_(prefer ? graph.rows : 0, -1), free_cols_(graph.words), spare_cols_(graph.words) {
    for (std::int64_t i = 0; i < graph.rows; ++i) {
      if (col_of[i] >= 0) {
        row_of_[col_of[i]] = i;
      }
    }
    if (graph.rows < graph.cols) {
      for (std::int64_t j = 0; j < graph.cols; ++j) {
        const std::uint64_t bit = std::uint64_t{1} << (j % 64);
        free_cols_[j / 64] |= row_of_[j] < 0 ? bit : 0;
        spare_cols_[j / 64] |= spare[j] ? bit : 0;
      }
    }
  }

  // Maximum agreement is an assignment problem on the tight graph with weight -1 on preferred
  // pairs. The weights are switched on one row at a time; each switch needs one search.
  bool agree() {
    for (std::int64_t i = 0; i < graph_.rows; ++i) {
      const std::int64_t j = prefer_[i];
      if (is_forced(i) || j < 0 || j >= graph_.cols || !graph_.has(i, j)) {
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
      begin_search(target);
      if (search(j, true)) {
        rotate(i, j);
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
      if (is_forced(i)) {
        continue;
      }
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
            begin_search(target);
            fresh = false;
          }
          if (!is_seen(j) && search(j, false)) {
            rotate(i, j);
            w = graph_.words;
            break;
          }
        }
      }
      if (col_of_[i] >= 0) {
        fixed_[col_of_[i] / 64] |= std::uint64_t{1} << (col_of_[i] % 64);
      }
      fixed_rows_[i / 64] |= std::uint64_t{1} << (i % 64);
      first_open_ = i + 1;
      if (interrupt_(graph_.words)) {
        return;
      }
    }
  }

private:
  // A row that moves, and the column it comes from (in moves_: goes to).
  struct Step {
    std::int64_t row, from;
  };

  bool is_forced(std::int64_t i) const { return (fixed_rows_[i / 64] >> (i % 64)) & 1; }
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

  void begin_search(std::int64_t target) {
    std::fill(seen_.begin(), seen_.end(), 0);
    reached_.clear();
    dummy_row_seen_ = dummy_col_seen_ = false;
    for (const std::int64_t j : leading_) {
      onward_[j] = -1;
    }
    leading_.clear();
    led_ = 0;
    target_ = target;
    dummy_row_leads_ = false;
    if (target != dummy_col()) {
      lead(target, target);
    }
  }

  void lead(std::int64_t from, std::int64_t to) {
    onward_[from] = to;
    leading_.push_back(from);
    dummy_row_leads_ = dummy_row_leads_ || (graph_.rows < graph_.cols && spare_[from]);
  }

  // Steps back from one of the columns that lead to the target: the columns whose holders can move
  // there lead to it too. False where none is left to step back from.
  bool step_back() {
    if (led_ == leading_.size()) {
      return false;
    }
    const std::int64_t to = leading_[led_++];
    if (transposed_.rows == 0) {
      transposed_ = graph_.transposed(interrupt_);
    }
    interrupt_(transposed_.words);
    const std::uint64_t *column = transposed_.bits.data() + to * transposed_.words;
    for (std::int64_t w = 0; w < transposed_.words; ++w) {
      for (std::uint64_t word = column[w] & ~fixed_rows_[w]; word; word &= word - 1) {
        const std::int64_t k = w * 64 + std::countr_zero(word);
        const std::int64_t from = col_of_[k];
        if (from >= 0 && onward_[from] < 0 && usable(k, to)) {
          lead(from, to);
          if (is_seen(from)) {
            meeting_ = from;
            return true;
          }
        }
      }
    }
    return true;
  }

  void reach(std::int64_t j, std::int64_t row, std::int64_t from) {
    via_[j] = {row, from};
    reached_.push_back(j);
    if (j == dummy_col()) {
      dummy_col_seen_ = true;
    } else {
      seen_[j / 64] |= std::uint64_t{1} << (j % 64);
    }
    if (j == target_ || (j != dummy_col() && onward_[j] >= 0)) {
      meeting_ = j;
    }
  }

  // Searches for a chain of moves that starts with the holder of `source` giving it up and ends in
  // the target, from both ends. What earlier searches of the same row reached is known to fail and
  // stays marked; with `exhaustive` a failed search has reached all there is to reach.
  bool search(std::int64_t source, bool exhaustive) {
    std::size_t head = reached_.size();
    // Steps back do not know who holds places without partner.
    const bool both_ways = !exhaustive && graph_.rows <= graph_.cols;
    meeting_ = -1;
    reach(source, -1, -1);
    for (; head < reached_.size() && meeting_ < 0; ++head) {
      const std::int64_t at = reached_[head];
      if (at == dummy_col()) {
        for (std::int64_t k = first_open_; k < graph_.rows && meeting_ < 0; ++k) {
          if (col_of_[k] < 0) {
            expand(k, at);
          }
        }
      } else if (row_of_[at] >= 0) {
        expand(row_of_[at], at);
      } else if (!dummy_row_seen_) {
        dummy_row_seen_ = true;
        expand_dummy_row(at);
      }
      if (meeting_ < 0 && !step_back() && both_ways && !dummy_row_leads_) {
        return false;
      }
    }
    return meeting_ >= 0;
  }

  void expand(std::int64_t k, std::int64_t from) {
    interrupt_(graph_.words);
    const std::uint64_t *row = graph_.bits.data() + k * graph_.words;
    for (std::int64_t w = 0; w < graph_.words; ++w) {
      std::uint64_t word = row[w] & ~seen_[w] & ~fixed_[w];
      if (const std::uint64_t open = word & free_cols_[w]; open && !prefer_) {
        // The dummy row holds all of these: one stands for them.
        word &= ~open | (open & -open);
        seen_[w] |= open;
      }
      for (; word; word &= word - 1) {
        const std::int64_t j = w * 64 + std::countr_zero(word);
        if (usable(k, j)) {
          reach(j, k, from);
          if (meeting_ >= 0) {
            return;
          }
        }
      }
    }
    if (graph_.rows > graph_.cols && spare_[k] && !dummy_col_seen_ && usable(k, dummy_col())) {
      reach(dummy_col(), k, from);
    }
  }

  void expand_dummy_row(std::int64_t from) {
    interrupt_(graph_.words);
    const auto try_to_reach = [&](std::int64_t j) {
      if (usable(dummy_row(), j)) {
        reach(j, dummy_row(), from);
      }
    };
    if (target_ < graph_.cols && spare_[target_] && !is_seen(target_)) {
      try_to_reach(target_);
    }
    for (std::int64_t w = 0; w < graph_.words && meeting_ < 0; ++w) {
      // What it holds itself leads nowhere else.
      std::uint64_t word =
          spare_cols_[w] & ~seen_[w] & ~fixed_[w] & (prefer_ ? ~std::uint64_t{0} : ~free_cols_[w]);
      for (; word && meeting_ < 0; word &= word - 1) {
        try_to_reach(w * 64 + std::countr_zero(word));
      }
    }
  }

  // Row i takes `source`; everybody on the chain moves one step on.
  void rotate(std::int64_t i, std::int64_t source) {
    moves_.clear();
    for (std::int64_t at = meeting_; at != source; at = via_[at].from) {
      moves_.push_back({via_[at].row, at});
    }
    if (meeting_ != dummy_col()) {
      for (std::int64_t at = meeting_; onward_[at] != at && onward_[at] >= 0; at = onward_[at]) {
        moves_.push_back({row_of_[at], onward_[at]});
      }
    }
    for (const Step &move : moves_) {
      place(move.row, move.from);
    }
    place(i, source);
  }

  void place(std::int64_t row, std::int64_t col) {
    if (col != dummy_col()) {
      row_of_[col] = row == dummy_row() ? -1 : row;
      const std::uint64_t bit = std::uint64_t{1} << (col % 64);
      free_cols_[col / 64] =
          row == dummy_row() ? free_cols_[col / 64] | bit : free_cols_[col / 64] & ~bit;
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
  TightGraph transposed_{0, 0}; // once a step back is taken
  const std::vector<char> &spare_;
  const std::int64_t *prefer_;
  const std::span<std::int64_t> col_of_;
  Interrupt &interrupt_;
  std::vector<std::int64_t> row_of_;
  std::vector<std::uint64_t> fixed_, seen_, fixed_rows_;
  std::vector<Step> via_, moves_;
  // Columns from which the target can be reached, and for each the next column on the way.
  std::vector<std::int64_t> leading_, onward_;
  std::size_t led_ = 0;
  std::int64_t target_ = -1;
  std::int64_t meeting_ = -1; // the first column that both sides came to
  std::vector<std::int64_t> row_potential_, col_potential_, wanted_, reached_;
  std::vector<std::uint64_t> free_cols_, spare_cols_; // where there are fewer rows
  std::int64_t first_open_ = 0;
  bool dummy_row_seen_ = false, dummy_col_seen_ = false;
  bool dummy_row_leads_ = false; // to the target
};

// Square graphs of one word a row, without preferences: a set of rows or columns is a word.
class WordTies {
public:
  WordTies(const TightGraph &graph, std::span<std::int64_t> col_of)
      : bits_(graph.bits.data()), col_of_(col_of), rows_(~std::uint64_t{0} >> (64 - graph.rows)) {}

  void lexicographic() {
    force();
    if (!rows_) {
      return;
    }
    for (std::uint64_t left = rows_; left; left &= left - 1) {
      const int i = std::countr_zero(left);
      row_of_[static_cast<std::size_t>(col_of_[i])] = i;
    }
    for (std::uint64_t left = rows_; left; left &= left - 1) {
      const int i = std::countr_zero(left);
      improve(i);
      cols_ &= ~(std::uint64_t{1} << col_of_[i]);
    }
  }

private:
  // Leaves the rows, and their columns, that have more than one column to go to.
  void force() {
    std::uint64_t before = 0;
    for (bool up = true; rows_ && rows_ != before; up = !up) {
      before = rows_;
      for (std::uint64_t left = before; left;) {
        const int i = up ? std::countr_zero(left) : 63 - std::countl_zero(left);
        const std::uint64_t row = std::uint64_t{1} << i;
        const std::uint64_t open = bits_[i] & cols_;
        const bool one = (open & (open - 1)) == 0;
        left ^= row;
        rows_ &= ~(one ? row : 0);
        cols_ &= ~(one ? open : 0);
      }
    }
  }

  // Gives row i the smallest open column from which a chain of moves leads to the one it has.
  void improve(int i) {
    const std::int64_t target = col_of_[i];
    const std::uint64_t goal = std::uint64_t{1} << target;
    std::uint64_t tried = bits_[i] & cols_ & (goal - 1);
    std::uint64_t unseen = cols_;
    for (; tried; tried &= tried - 1) {
      const int source = std::countr_zero(tried);
      std::uint64_t reached = unseen & (std::uint64_t{1} << source);
      unseen &= ~reached;
      while (reached) {
        const int from = std::countr_zero(reached);
        reached &= reached - 1;
        const std::uint64_t next = bits_[row_of_[static_cast<std::size_t>(from)]] & unseen;
        for (std::uint64_t left = next; left; left &= left - 1) {
          via_[static_cast<std::size_t>(std::countr_zero(left))] = from;
        }
        if (next & goal) {
          rotate(i, source);
          return;
        }
        reached |= next;
        unseen &= ~next;
      }
    }
  }

  // Everybody on the chain from `source` moves one step on, and row i takes `source`.
  void rotate(int i, int source) {
    for (auto at = static_cast<int>(col_of_[i]); at != source;) {
      const int from = via_[static_cast<std::size_t>(at)];
      place(row_of_[static_cast<std::size_t>(from)], at);
      at = from;
    }
    place(i, source);
  }

  void place(int row, int col) {
    col_of_[row] = col;
    row_of_[static_cast<std::size_t>(col)] = row;
  }

  const std::uint64_t *bits_;
  const std::span<std::int64_t> col_of_;
  std::uint64_t rows_, cols_ = ~std::uint64_t{0}; // those that are not settled
  std::array<int, 64> row_of_, via_;
};

// Transposes 64 x 64 bits: swaps ever smaller blocks off the diagonal (Warren, Hacker's Delight,
// section 7-3).
void transpose_block(std::array<std::uint64_t, 64> &block) {
  std::uint64_t mask = 0x00000000ffffffff;
  for (std::size_t step = 32; step; step /= 2, mask ^= mask << step) {
    for (std::size_t k = 0; k < 64; k = ((k | step) + 1) & ~step) {
      const std::uint64_t swap = ((block[k] >> step) ^ block[k | step]) & mask;
      block[k] ^= swap << step;
      block[k | step] ^= swap;
    }
  }
}

} // namespace

TightGraph TightGraph::transposed(Interrupt &interrupt) const {
  TightGraph result(cols, rows);
  std::array<std::uint64_t, 64> block;
  for (std::int64_t first = 0; first < rows && !interrupt(64 * words); first += 64) {
    const std::int64_t height = std::min<std::int64_t>(64, rows - first);
    for (std::int64_t w = 0; w < words; ++w) {
      block.fill(0);
      std::uint64_t any = 0;
      for (std::int64_t k = 0; k < height; ++k) {
        any |= block[k] = bits[(first + k) * words + w];
      }
      if (any) {
        transpose_block(block);
        for (std::int64_t k = 0; k < std::min<std::int64_t>(64, cols - w * 64); ++k) {
          result.bits[(w * 64 + k) * result.words + first / 64] = block[k];
        }
      }
    }
  }
  return result;
}

void canonical_optimum(const TightGraph &graph, const std::vector<char> &spare,
                       const std::int64_t *prefer, std::span<std::int64_t> col_of,
                       Interrupt &interrupt) {
  if (graph.words == 1 && graph.rows == graph.cols && !prefer) {
    WordTies(graph, col_of).lexicographic();
    return;
  }
  Forced forced = forced_rows(graph, spare, col_of, interrupt);
  if (forced.count == graph.rows) {
    return;
  }
  TieBreaker breaker(graph, std::move(forced), spare, prefer, col_of, interrupt);
  if (!prefer || breaker.agree()) {
    breaker.lexicographic();
  }
}

} // namespace lmc
