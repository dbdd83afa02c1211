#include "assignment_lists.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "assignment_auction.hpp"
#include "assignment_candidates.hpp"
#include "assignment_turned.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t unit_of_capacity = 2 * width<double>;

// The two best of a list whose `count` is a multiple of unit_of_capacity; `index` is a place in it.
LMC_CLONES TopTwo<double> top_two_listed(const double *values, const std::int32_t *cols,
                                         const double *price, std::int64_t count) {
  const Doubles low = Doubles{} - infinity;
  const LaneTopTwo<double> nothing{low, low, Longs{} - 1};
  LaneTopTwo<double> chains[2] = {nothing, nothing};
  Longs place = lane_numbers(0.0);
  for (std::int64_t k = 0; k < count; k += unit_of_capacity) {
    for (int half = 0; half < 2; ++half) {
      const std::int64_t first = k + half * width<double>;
      const std::int32_t *at = cols + first;
      const Doubles prices{price[at[0]], price[at[1]], price[at[2]], price[at[3]]};
      chains[half].see(load(values + first) - prices, place);
      place += width<double>;
    }
  }
  chains[0].merge(chains[1].first, chains[1].second, chains[1].place);
  chains[0].gather();
  TopTwo<double> top{chains[0].first[0], chains[0].second[0], chains[0].place[0]};
  return top;
}

struct Candidate {
  double value;
  std::int32_t col;
};

template <class Matrix> class ListSolver : public Auction<ListSolver<Matrix>> {
  using Base = Auction<ListSolver<Matrix>>;
  friend Base;
  using Base::class_cols_, Base::class_profit, Base::classes_, Base::free_, Base::interrupt_,
      Base::is_class, Base::largest_price_, Base::least_price, Base::matching_, Base::n_,
      Base::order_class_cols, Base::rows_, Base::set_price, Base::step_;

public:
  ListSolver(const Matrix &matrix, const Classes &classes, Matching &matching, Interrupt &interrupt,
             SolverWork &work)
      : Base(std::max(matrix.rows, matrix.cols), classes, matching, power_of_two(-matrix.grid.bits),
             interrupt),
        matrix_(matrix), work_(work), capacity_(list_capacity(matrix.cols)), candidates_(matrix),
        values_(matrix.rows * capacity_), cols_(matrix.rows * capacity_), sizes_(matrix.rows),
        bound_(n_, infinity) {
    for (std::int64_t j = 0; j < n_; ++j) {
      set_price(j, matching.price[j]);
    }
  }

  SolverResult run(const SolverOptions &options) {
    // Who has a column has no need of others yet.
    for (const std::int64_t i : rows_) {
      if (matching_.col_of[i] >= 0) {
        continue;
      }
      collect(i);
      if (interrupt_.stopped()) {
        return SolverResult::interrupted;
      }
    }
    bool complete = false;
    const std::span<const double> shares = list_shares;
    if (!this->auction(options.scaling ? shares : shares.first(0), options, complete)) {
      return SolverResult::interrupted;
    }
    if (!options.scaling && options.scales(static_cast<std::int64_t>(free_.size()), n_)) {
      return SolverResult::unfinished;
    }
    return complete ? SolverResult::ok : augment_all();
  }

private:
  static constexpr bool is_dense = false;

  // What row i gets for column j, both on the grid.
  double value(std::int64_t i, std::int64_t j) const {
    if (is_class(classes_.row_value[i])) {
      return classes_.row_value[i];
    }
    return is_class(classes_.col_value[j]) ? classes_.col_value[j] : matrix_.exact(i, j);
  }

  double profit(std::int64_t i, std::int64_t j) const { return value(i, j) - matching_.price[j]; }

  static std::int64_t list_capacity(std::int64_t cols) {
    const std::int64_t wanted = std::clamp<std::int64_t>(cols / 64, 16, 48);
    return (wanted + unit_of_capacity - 1) / unit_of_capacity * unit_of_capacity;
  }

  void price_set(std::int64_t j) {
    // Constant columns have a heap of their own and stay out of the lists.
    if (!is_class(classes_.col_value[j])) {
      candidates_.set_price(j, matching_.price[j]);
    }
  }

  double looseness(double) const { return 0; }

  // Reads row i: its list becomes the best columns at the present prices.
  void collect(std::int64_t i) {
    ++work_.rows_read;
    interrupt_(2 * matrix_.cols);
    auto [cols, bound] =
        candidates_.read(i, std::min(capacity_ * 2 / 3, matrix_.cols), largest_price_);
    found_.clear();
    for (const std::int32_t j : cols) {
      found_.push_back({matrix_.exact(i, j), j});
    }
    if (static_cast<std::int64_t>(found_.size()) > capacity_) {
      // Of equal ones the next behind the diagonal, so that rows with the same ties list different
      // columns.
      const std::int64_t diagonal = i * matrix_.cols / matrix_.rows;
      const auto place = [&](std::int64_t j) { return j < diagonal ? j + matrix_.cols : j; };
      const auto better = [&](const Candidate &a, const Candidate &b) {
        const double x = a.value - matching_.price[a.col];
        const double y = b.value - matching_.price[b.col];
        return x > y || (x == y && place(a.col) < place(b.col));
      };
      std::nth_element(found_.begin(), found_.begin() + capacity_, found_.end(), better);
      const Candidate &dropped = found_[capacity_];
      bound = std::max(bound, dropped.value - matching_.price[dropped.col]);
      found_.resize(capacity_);
    }
    sizes_[i] = static_cast<std::int32_t>(found_.size());
    std::int64_t at = i * capacity_;
    for (const Candidate &candidate : found_) {
      values_[at] = candidate.value;
      cols_[at++] = candidate.col;
    }
    for (; at % unit_of_capacity; ++at) {
      values_[at] = -infinity;
      cols_[at] = 0;
    }
    bound_[i] = found_.empty() ? -infinity : bound;
  }

  // The two best columns of the list and of the constant columns.
  Choice visit(std::int64_t i) {
    ++work_.list_visits;
    const std::int64_t size = (sizes_[i] + unit_of_capacity - 1) / unit_of_capacity;
    const TopTwo<double> top =
        top_two_listed(values_.data() + i * capacity_, cols_.data() + i * capacity_,
                       matching_.price.data(), size * unit_of_capacity);
    Choice choice{top.best, top.second, top.index < 0 ? -1 : cols_[i * capacity_ + top.index]};
    for (std::size_t k = 0; k < std::min<std::size_t>(class_cols_.size(), 3); ++k) {
      const double x = class_profit(class_cols_[k]);
      if (x > choice.best) {
        choice = {x, choice.best, class_cols_[k]};
      } else {
        choice.second = std::max(choice.second, x);
      }
    }
    return choice;
  }

  Choice choose(std::int64_t i, double) {
    const Choice choice = visit(i);
    if (choice.second >= bound_[i]) {
      return choice;
    }
    collect(i);
    return visit(i);
  }

  std::array<Choice, 2> choose(const std::array<std::int64_t, 2> &rows, double epsilon) {
    return {choose(rows[0], epsilon), choose(rows[1], epsilon)};
  }

  Choice choose_best(std::int64_t i) {
    const Choice choice = visit(i);
    if (choice.best >= bound_[i]) {
      return choice;
    }
    collect(i);
    return visit(i);
  }

  std::int64_t free_tie(std::int64_t i, double best) const {
    for (std::int64_t k = i * capacity_; k < i * capacity_ + sizes_[i]; ++k) {
      if (matching_.row_of[cols_[k]] < 0 && values_[k] - matching_.price[cols_[k]] == best) {
        return cols_[k];
      }
    }
    return -1;
  }

  double spread(std::int64_t i) { return choose_best(i).best - bound_[i]; }

  struct Label {
    double dist;
    std::int64_t from; // the row it was reached from
    bool done;
  };

  SolverResult augment_all() {
    labels_.assign(n_, {infinity, -1, false});
    heap_.reserve(5 * n_ / 2);
    for (const std::int64_t i : free_) {
      const SolverResult result = augment(i);
      if (result != SolverResult::ok) {
        return result;
      }
    }
    return SolverResult::ok;
  }

  SolverResult augment(std::int64_t start) {
    ++work_.augmentations;
    heap_.clear();
    touched_.clear();
    expanded_.clear();
    nearest_free_ = infinity;
    class_row_base_ = class_col_base_ = infinity;
    const bool constant = is_class(classes_.row_value[start]);
    scan(start, 0.0,
         constant ? classes_.row_value[start] - least_price() : choose_best(start).best);
    while (!heap_.empty() && !interrupt_(capacity_)) {
      const Event event = heap_.front();
      if (event.key >= nearest_free_) {
        break;
      }
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.pop_back();
      if (event.node < 0) {
        widen(~event.node);
      } else if (!labels_[event.node].done && event.key == labels_[event.node].dist) {
        labels_[event.node].done = true;
        const std::int64_t i = matching_.row_of[event.node];
        scan(i, event.key, profit(i, event.node));
      }
    }
    const bool reached = nearest_free_ < infinity && !interrupt_.stopped();
    bool class_rose = false;
    if (reached) {
      for (const std::int64_t j : touched_) {
        if (labels_[j].done) {
          set_price(j, matching_.price[j] + (nearest_free_ - labels_[j].dist));
          class_rose = class_rose || is_class(classes_.col_value[j]);
        }
      }
      flip(start, nearest_sink_);
    }
    for (const std::int64_t j : touched_) {
      labels_[j] = {infinity, -1, false};
    }
    if (class_rose) {
      order_class_cols();
    }
    if (interrupt_.stopped()) {
      return SolverResult::interrupted;
    }
    return reached ? SolverResult::ok : SolverResult::infeasible;
  }

  void flip(std::int64_t start, std::int64_t j) {
    while (true) {
      const std::int64_t i = labels_[j].from;
      const std::int64_t next = matching_.col_of[i];
      matching_.row_of[j] = i;
      matching_.col_of[i] = j;
      if (i == start) {
        return;
      }
      j = next;
    }
  }

  void reach(std::int64_t j, double dist, std::int64_t from) {
    Label &label = labels_[j];
    if (dist >= label.dist || dist >= nearest_free_) {
      return;
    }
    if (label.dist == infinity) {
      touched_.push_back(j);
    }
    label.dist = dist;
    label.from = from;
    if (matching_.row_of[j] < 0) {
      nearest_free_ = dist;
      nearest_sink_ = j;
      return;
    }
    push(dist, j);
  }

  // Of many columns the free ones first: no other counts that is as far as the nearest of them.
  template <class Column, class Distance>
  void reach_free_first(std::int64_t count, const Column &column, const Distance &distance,
                        std::int64_t from) {
    interrupt_(count);
    for (const bool held : {false, true}) {
      for (std::int64_t k = 0; k < count; ++k) {
        if (const std::int64_t j = column(k); (matching_.row_of[j] >= 0) == held) {
          reach(j, distance(j), from);
        }
      }
    }
  }

  // At most n columns and n bounds wait at a time: the other events are out of date.
  void push(double key, std::int64_t node) {
    if (heap_.size() == heap_.capacity()) {
      std::erase_if(heap_, [this](const Event &event) {
        return event.key >= nearest_free_ ||
               (event.node >= 0 &&
                (labels_[event.node].done || event.key > labels_[event.node].dist));
      });
      std::make_heap(heap_.begin(), heap_.end());
    }
    heap_.push_back({key, node});
    std::push_heap(heap_.begin(), heap_.end());
  }

  struct Scan {
    std::int64_t row;
    double base;
    int reads;
  };

  // Row i was reached at `dist`; `own` is what its own column yields.
  void scan(std::int64_t i, double dist, double own) {
    const double base = dist + own;
    if (is_class(classes_.row_value[i])) {
      // All constant rows see the same columns: only the one reached at least cost counts.
      const double offset = base - classes_.row_value[i];
      if (offset < class_row_base_) {
        class_row_base_ = offset;
        reach_free_first(
            n_, [](std::int64_t k) { return k; },
            [&](std::int64_t j) { return offset + matching_.price[j]; }, i);
      }
      return;
    }
    if (base < class_col_base_) {
      class_col_base_ = base;
      reach_free_first(
          std::ssize(class_cols_), [&](std::int64_t k) { return class_cols_[k]; },
          [&](std::int64_t j) { return base - class_profit(j); }, i);
    }
    relax(i, base);
    if (base - bound_[i] < nearest_free_) {
      expanded_.push_back({i, base, 0});
      push(base - bound_[i], ~static_cast<std::int64_t>(expanded_.size() - 1));
    }
  }

  void relax(std::int64_t i, double base) {
    if (bound_[i] == infinity) {
      collect(i);
    }
    ++work_.list_visits;
    for (std::int64_t k = i * capacity_; k < i * capacity_ + sizes_[i]; ++k) {
      reach(cols_[k], base - (values_[k] - matching_.price[cols_[k]]), i);
    }
  }

  // The search came to the bound of a list. Where it knows a way to a free column, what is nearer
  // than that counts. Else the row is read again, and if the new bound is reached too, all its
  // columns count.
  void widen(std::int64_t k) {
    Scan &state = expanded_[k];
    const double before = bound_[state.row];
    if (state.reads++ == 0 && nearest_free_ == infinity) {
      collect(state.row);
      relax(state.row, state.base);
      if (bound_[state.row] < before) {
        if (state.base - bound_[state.row] < nearest_free_) {
          push(state.base - bound_[state.row], ~k);
        }
        return;
      }
    }
    ++work_.rows_read;
    interrupt_(matrix_.cols);
    for (const std::int32_t j :
         candidates_.reaching(state.row, state.base - nearest_free_, largest_price_)) {
      reach(j, state.base - (matrix_.exact(state.row, j) - matching_.price[j]), state.row);
    }
  }

  const Matrix &matrix_;
  SolverWork &work_;
  const std::int64_t capacity_;
  CandidateScan<Matrix> candidates_;
  std::vector<double> values_; // of the listed columns, capacity_ places to each row
  std::vector<std::int32_t> cols_, sizes_;
  std::vector<double> bound_; // infinity for a row without list
  std::vector<Candidate> found_;
  std::vector<std::int64_t> touched_;
  std::vector<Label> labels_;
  std::vector<Event> heap_;
  std::vector<Scan> expanded_;
  double nearest_free_ = infinity;
  std::int64_t nearest_sink_ = -1;
  double class_row_base_ = infinity, class_col_base_ = infinity;
};

} // namespace

template <class Matrix>
SolverResult solve_lists(const Matrix &matrix, const Classes &classes, Matching &matching,
                         const SolverOptions &options, Interrupt &interrupt, SolverWork &work) {
  return ListSolver<Matrix>(matrix, classes, matching, interrupt, work).run(options);
}

template SolverResult solve_lists(const RowMatrix<float> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_lists(const RowMatrix<double> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_lists(const TurnedMatrix<float> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);
template SolverResult solve_lists(const TurnedMatrix<double> &, const Classes &, Matching &,
                                  const SolverOptions &, Interrupt &, SolverWork &);

} // namespace lmc
