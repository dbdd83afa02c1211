#include "assignment_lists.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "assignment_rows.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Candidate {
  double value;
  std::int32_t col;
};

struct Choice {
  double best, second;
  std::int64_t col;
};

template <class T> class ListSolver {
public:
  ListSolver(const RowMatrix<T> &matrix, Matching &matching, int threads, Interrupt &interrupt,
             ListWork &work)
      : matrix_(matrix), matching_(matching), threads_(threads), interrupt_(interrupt), work_(work),
        n_(matrix.rows), capacity_(list_capacity(matrix.cols)), depth_(group_depth(matrix.cols)),
        unit_(static_cast<T>(std::ldexp(1.0, matrix.grid.exponent))),
        step_(std::ldexp(1.0, -matrix.grid.bits)), rounded_(matrix.cols),
        maxima_(matrix.cols / depth_ + 2 * group_lanes), entries_(n_ * capacity_), sizes_(n_),
        bound_(n_) {
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      set_price(j, matching.price[j]);
    }
  }

  DenseResult run() {
    for (std::int64_t i = 0; i < n_; ++i) {
      collect(i);
      if (interrupt_(matrix_.cols)) {
        return DenseResult::interrupted;
      }
    }
    for (std::int64_t i = n_ - 1; i >= 0; --i) {
      if (matching_.col_of[i] < 0) {
        free_.push_back(i);
      }
    }
    if (!bid(0.0, 2 * n_)) {
      return DenseResult::interrupted;
    }
    if (static_cast<std::int64_t>(free_.size()) > n_ / 16) {
      const double spread = mean_spread();
      for (double share : {0.3, 0.05, 0.008, 0.0012, 0.0002}) {
        const double epsilon = std::ceil(spread * share / step_) * step_;
        release(epsilon);
        if (!bid(epsilon, 16 * n_)) {
          return DenseResult::interrupted;
        }
      }
      release(0.0);
      if (!bid(0.0, 2 * static_cast<std::int64_t>(free_.size()))) {
        return DenseResult::interrupted;
      }
    }
    return augment_all();
  }

private:
  static std::int64_t list_capacity(std::int64_t cols) {
    return std::clamp<std::int64_t>(cols / 64, 16, 48);
  }

  void set_price(std::int64_t j, double price) {
    matching_.price[j] = price;
    largest_price_ = std::max(largest_price_, std::abs(price));
    rounded_[j] = static_cast<T>(price) * unit_;
  }

  // How far a difference formed in T can be from the exact one on the grid.
  double margin() const {
    return (1 + largest_price_) * 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) +
           step_;
  }

  // Reads row i: its list becomes the best columns at the present prices.
  void collect(std::int64_t i) {
    ++work_.rows_read;
    const T *row = matrix_.row(i);
    const std::int64_t groups =
        group_maxima(row, matrix_.sign, rounded_.data(), matrix_.cols, depth_, maxima_.data());
    const double slack = margin();
    const std::int64_t wanted = std::min(capacity_ * 2 / 3, matrix_.cols);
    const T threshold = upper_threshold(maxima_.data(), groups, wanted, 8 * unit_) -
                        static_cast<T>(2 * slack) * unit_;
    found_.clear();
    for (std::int64_t group = 0; group < groups; ++group) {
      if (maxima_[group] >= threshold) {
        const std::int64_t first =
            group / group_lanes * (group_lanes * depth_) + group % group_lanes;
        const std::int64_t last =
            std::min(matrix_.cols, (group / group_lanes + 1) * group_lanes * depth_);
        for (std::int64_t j = first; j < last; j += group_lanes) {
          if (row[j] * matrix_.sign - rounded_[j] >= threshold) {
            found_.push_back({matrix_.exact(i, j), static_cast<std::int32_t>(j)});
          }
        }
      }
    }
    double bound = static_cast<double>(threshold) * matrix_.grid.scale + slack;
    if (static_cast<std::int64_t>(found_.size()) > capacity_) {
      const auto better = [this](const Candidate &a, const Candidate &b) {
        const double x = a.value - matching_.price[a.col];
        const double y = b.value - matching_.price[b.col];
        return x > y || (x == y && a.col < b.col);
      };
      std::nth_element(found_.begin(), found_.begin() + capacity_, found_.end(), better);
      const Candidate &dropped = found_[capacity_];
      bound = std::max(bound, dropped.value - matching_.price[dropped.col]);
      found_.resize(capacity_);
    }
    std::copy(found_.begin(), found_.end(), entries_.begin() + i * capacity_);
    sizes_[i] = static_cast<std::int32_t>(found_.size());
    bound_[i] = found_.empty() ? -infinity : bound;
  }

  Choice visit(std::int64_t i) {
    ++work_.list_visits;
    const Candidate *entry = entries_.data() + i * capacity_;
    const Candidate *end = entry + sizes_[i];
    Choice choice{-infinity, -infinity, -1};
    for (; entry != end; ++entry) {
      const double x = entry->value - matching_.price[entry->col];
      if (x > choice.second) {
        if (x > choice.best) {
          choice.second = choice.best;
          choice.best = x;
          choice.col = entry->col;
        } else {
          choice.second = x;
        }
      }
    }
    return choice;
  }

  // The two best columns of the whole row.
  Choice choose(std::int64_t i) {
    const Choice choice = visit(i);
    if (choice.second >= bound_[i]) {
      return choice;
    }
    collect(i);
    return visit(i);
  }

  // The best column of the whole row; `second` may be too small.
  Choice choose_best(std::int64_t i) {
    const Choice choice = visit(i);
    if (choice.best >= bound_[i]) {
      return choice;
    }
    collect(i);
    return visit(i);
  }

  // Free rows bid for their best column until all have one or the budget is spent.
  bool bid(double epsilon, std::int64_t budget) {
    std::vector<std::int64_t> stuck;
    while (!free_.empty() && budget-- > 0) {
      const std::int64_t i = free_.back();
      free_.pop_back();
      if (interrupt_(capacity_)) {
        return false;
      }
      const Choice choice = choose(i);
      const std::int64_t holder = choice.col < 0 ? -1 : matching_.row_of[choice.col];
      const double raise = choice.best - choice.second + epsilon;
      // A row with one possible column bids no finite price, and a raise of zero could go on for
      // ever.
      if (choice.second == -infinity || (holder >= 0 && raise <= 0)) {
        stuck.push_back(i);
        continue;
      }
      set_price(choice.col, matching_.price[choice.col] + raise);
      matching_.row_of[choice.col] = i;
      matching_.col_of[i] = choice.col;
      if (holder >= 0) {
        matching_.col_of[holder] = -1;
        free_.push_back(holder);
      }
    }
    free_.insert(free_.end(), stuck.begin(), stuck.end());
    return true;
  }

  // Sets free every row whose column is worse than its best by more than epsilon.
  void release(double epsilon) {
    free_.clear();
    for (std::int64_t i = n_ - 1; i >= 0; --i) {
      const std::int64_t j = matching_.col_of[i];
      if (j >= 0) {
        const Choice choice = choose_best(i);
        if (matrix_.exact(i, j) - matching_.price[j] >= choice.best - epsilon) {
          continue;
        }
        matching_.row_of[j] = -1;
        matching_.col_of[i] = -1;
      }
      free_.push_back(i);
    }
  }

  double mean_spread() {
    double total = 0;
    const std::int64_t stride = std::max<std::int64_t>(1, n_ / 256);
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n_; i += stride) {
      const double spread = choose_best(i).best - bound_[i];
      if (spread < infinity) {
        total += spread;
        ++count;
      }
    }
    return count ? total / static_cast<double>(count) : 0.0;
  }

  struct Event {
    double key;
    std::int64_t node; // a column, or ~row for the bound of a row's list
    bool operator<(const Event &other) const { return key > other.key; }
  };

  struct Label {
    double dist;
    std::int64_t from; // the row it was reached from
    bool done;
  };

  DenseResult augment_all() {
    labels_.assign(matrix_.cols, {infinity, -1, false});
    std::sort(free_.begin(), free_.end());
    for (const std::int64_t i : free_) {
      const DenseResult result = augment(i);
      if (result != DenseResult::ok) {
        return result;
      }
    }
    return DenseResult::ok;
  }

  DenseResult augment(std::int64_t start) {
    ++work_.augmentations;
    heap_.clear();
    touched_.clear();
    expanded_.clear();
    nearest_free_ = infinity;
    std::int64_t sink = -1;
    scan(start, 0.0, choose_best(start).best);
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
        scan(i, event.key, matrix_.exact(i, event.node) - matching_.price[event.node]);
      }
    }
    sink = nearest_sink_;
    const bool reached = nearest_free_ < infinity && !interrupt_.stopped();
    if (reached) {
      for (const std::int64_t j : touched_) {
        if (labels_[j].done) {
          set_price(j, matching_.price[j] + (nearest_free_ - labels_[j].dist));
        }
      }
      flip(start, sink);
    }
    for (const std::int64_t j : touched_) {
      labels_[j] = {infinity, -1, false};
    }
    if (interrupt_.stopped()) {
      return DenseResult::interrupted;
    }
    return reached ? DenseResult::ok : DenseResult::infeasible;
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

  void push(double key, std::int64_t node) {
    heap_.push_back({key, node});
    std::push_heap(heap_.begin(), heap_.end());
  }

  struct Scan {
    std::int64_t row;
    double base;
    int reads;
  };

  // Row i was reached at `dist`; `profit` is what its own column yields.
  void scan(std::int64_t i, double dist, double profit) {
    const double base = dist + profit;
    relax(i, base);
    if (base - bound_[i] < nearest_free_) {
      expanded_.push_back({i, base, 0});
      push(base - bound_[i], ~static_cast<std::int64_t>(expanded_.size() - 1));
    }
  }

  void relax(std::int64_t i, double base) {
    ++work_.list_visits;
    const Candidate *entry = entries_.data() + i * capacity_;
    const Candidate *end = entry + sizes_[i];
    for (; entry != end; ++entry) {
      reach(entry->col, base - (entry->value - matching_.price[entry->col]), i);
    }
  }

  // The search came to the bound of a list: read the row again, and if that bound is reached too,
  // take all its columns.
  void widen(std::int64_t k) {
    Scan &state = expanded_[k];
    const double before = bound_[state.row];
    if (state.reads++ == 0) {
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
    for (std::int64_t j = 0; j < matrix_.cols; ++j) {
      reach(j, state.base - (matrix_.exact(state.row, j) - matching_.price[j]), state.row);
    }
  }

  const RowMatrix<T> &matrix_;
  Matching &matching_;
  int threads_;
  Interrupt &interrupt_;
  ListWork &work_;
  std::int64_t n_, capacity_, depth_;
  T unit_;
  double step_;
  double largest_price_ = 0;
  std::vector<T> rounded_, maxima_;
  std::vector<Candidate> entries_, found_;
  std::vector<std::int32_t> sizes_;
  std::vector<double> bound_;
  std::vector<std::int64_t> free_, touched_;
  std::vector<Label> labels_;
  std::vector<Event> heap_;
  std::vector<Scan> expanded_;
  double nearest_free_ = infinity;
  std::int64_t nearest_sink_ = -1;
};

} // namespace

template <class T>
DenseResult solve_lists(const RowMatrix<T> &matrix, Matching &matching, int threads,
                        Interrupt &interrupt, ListWork &work) {
  return ListSolver<T>(matrix, matching, threads, interrupt, work).run();
}

template DenseResult solve_lists(const RowMatrix<float> &, Matching &, int, Interrupt &,
                                 ListWork &);
template DenseResult solve_lists(const RowMatrix<double> &, Matching &, int, Interrupt &,
                                 ListWork &);

} // namespace lmc
