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
  ListSolver(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
             double tolerance, bool warm, Interrupt &interrupt, ListWork &work)
      : matrix_(matrix), classes_(classes), matching_(matching), tolerance_(tolerance), warm_(warm),
        interrupt_(interrupt), work_(work), n_(std::max(matrix.rows, matrix.cols)),
        capacity_(list_capacity(matrix.cols)), depth_(group_depth(matrix.cols)),
        unit_(static_cast<T>(std::ldexp(1.0, matrix.grid.exponent))),
        step_(std::ldexp(1.0, -matrix.grid.bits)), rounded_(n_),
        maxima_(matrix.cols / depth_ + 2 * group_lanes), entries_(matrix.rows * capacity_),
        sizes_(matrix.rows), bound_(n_, -infinity) {
    for (std::int64_t j = 0; j < n_; ++j) {
      if (is_class(classes.col_value[j])) {
        class_cols_.push_back(j);
      }
      set_price(j, matching.price[j]);
    }
    for (std::int64_t i = 0; i < n_; ++i) {
      (is_class(classes.row_value[i]) ? class_rows_ : rows_).push_back(i);
    }
    order_class_cols();
  }

  DenseResult run() {
    for (const std::int64_t i : rows_) {
      collect(i);
      if (interrupt_(matrix_.cols)) {
        return DenseResult::interrupted;
      }
    }
    free_.assign(rows_.rbegin(), rows_.rend());
    free_class_rows_ = class_rows_;
    if (!bid(0.0, 2 * n_)) {
      return DenseResult::interrupted;
    }
    const auto open = static_cast<std::int64_t>(free_.size() + free_class_rows_.size());
    if (open > (warm_ ? n_ / 4 : n_ / 16)) {
      const double spread = mean_spread();
      for (double share : {0.1, 0.015, 0.002, 0.0003}) {
        if (warm_ && share > 0.02) {
          continue;
        }
        const double epsilon = std::ceil(spread * share / step_) * step_;
        release(epsilon);
        if (!bid(epsilon, 16 * n_)) {
          return DenseResult::interrupted;
        }
        // Now every row is within epsilon of its best choice.
        const bool complete = free_.empty() && free_class_rows_.empty();
        if (complete && epsilon * static_cast<double>(n_) <= tolerance_) {
          return DenseResult::ok;
        }
      }
      release(0.0);
      if (!bid(0.0, 2 * static_cast<std::int64_t>(free_.size()))) {
        return DenseResult::interrupted;
      }
    }
    settle_class_rows();
    return augment_all();
  }

private:
  static bool is_class(double value) { return value == value; }

  // What row i gets for column j, both on the grid.
  double value(std::int64_t i, std::int64_t j) const {
    if (is_class(classes_.row_value[i])) {
      return classes_.row_value[i];
    }
    return is_class(classes_.col_value[j]) ? classes_.col_value[j] : matrix_.exact(i, j);
  }

  double profit(std::int64_t i, std::int64_t j) const { return value(i, j) - matching_.price[j]; }

  // Constant columns are a heap with the one that yields most on top; only bids for the top one and
  // bids of the constant rows change it.
  double class_profit(std::int64_t j) const { return classes_.col_value[j] - matching_.price[j]; }
  bool class_order(std::int64_t j, std::int64_t k) const {
    const double x = class_profit(j);
    const double y = class_profit(k);
    return x < y || (x == y && j > k);
  }
  void order_class_cols() {
    std::make_heap(class_cols_.begin(), class_cols_.end(),
                   [this](std::int64_t j, std::int64_t k) { return class_order(j, k); });
  }
  void top_class_col_rose() {
    const auto order = [this](std::int64_t j, std::int64_t k) { return class_order(j, k); };
    std::size_t at = 0;
    while (true) {
      std::size_t next = at;
      for (std::size_t child = 2 * at + 1; child <= 2 * at + 2 && child < class_cols_.size();
           ++child) {
        if (order(class_cols_[next], class_cols_[child])) {
          next = child;
        }
      }
      if (next == at) {
        return;
      }
      std::swap(class_cols_[at], class_cols_[next]);
      at = next;
    }
  }

  static std::int64_t list_capacity(std::int64_t cols) {
    return std::clamp<std::int64_t>(cols / 64, 16, 48);
  }

  void set_price(std::int64_t j, double price) {
    matching_.price[j] = price;
    largest_price_ = std::max(largest_price_, std::abs(price));
    // An infinite price keeps constant columns out of the lists.
    rounded_[j] = is_class(classes_.col_value[j]) ? std::numeric_limits<T>::infinity()
                                                  : static_cast<T>(price) * unit_;
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
    const T *price = rounded_.data();
    const T *maxima = maxima_.data();
    const T sign = matrix_.sign;
    const std::int64_t block = group_lanes * depth_;
    for (std::int64_t group = 0; group < groups; ++group) {
      if (maxima[group] >= threshold) {
        const std::int64_t first = group / group_lanes * block + group % group_lanes;
        const std::int64_t last = std::min(matrix_.cols, (group / group_lanes + 1) * block);
        for (std::int64_t j = first; j < last; j += group_lanes) {
          if (row[j] * sign - price[j] >= threshold) {
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
        consider(choice, x, entry->col);
      }
    }
    for (std::size_t k = 0; k < std::min<std::size_t>(class_cols_.size(), 3); ++k) {
      const double x = class_profit(class_cols_[k]);
      if (x > choice.second) {
        consider(choice, x, class_cols_[k]);
      }
    }
    return choice;
  }

  static void consider(Choice &choice, double x, std::int64_t col) {
    if (x > choice.best) {
      choice.second = choice.best;
      choice.best = x;
      choice.col = col;
    } else {
      choice.second = x;
    }
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
    while (budget > 0) {
      if (free_.empty()) {
        if (free_class_rows_.empty()) {
          break;
        }
        bid_as_class(epsilon);
        budget -= n_ / 16 + 1;
        if (interrupt_(n_)) {
          return false;
        }
        continue;
      }
      --budget;
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
        const std::int64_t other = free_tie(i, choice.best);
        if (other >= 0) {
          take(i, other);
        } else {
          stuck.push_back(i);
        }
        continue;
      }
      set_price(choice.col, matching_.price[choice.col] + raise);
      if (is_class(classes_.col_value[choice.col])) {
        top_class_col_rose();
      }
      take(i, choice.col);
    }
    free_.insert(free_.end(), stuck.begin(), stuck.end());
    return true;
  }

  // A column in the list of row i that nobody holds and that is as good as its best, or -1.
  std::int64_t free_tie(std::int64_t i, double best) const {
    const Candidate *entry = entries_.data() + i * capacity_;
    for (const Candidate *end = entry + sizes_[i]; entry != end; ++entry) {
      if (matching_.row_of[entry->col] < 0 && entry->value - matching_.price[entry->col] == best) {
        return entry->col;
      }
    }
    return -1;
  }

  void take(std::int64_t i, std::int64_t j) {
    const std::int64_t holder = matching_.row_of[j];
    matching_.row_of[j] = i;
    matching_.col_of[i] = j;
    if (holder >= 0) {
      matching_.col_of[holder] = -1;
      (is_class(classes_.row_value[holder]) ? free_class_rows_ : free_).push_back(holder);
    }
  }

  // The constant rows together take the cheapest columns, all at the price of the cheapest they
  // leave to others: one bid instead of as many price wars.
  void bid_as_class(double epsilon) {
    for (const std::int64_t i : class_rows_) {
      if (matching_.col_of[i] >= 0) {
        matching_.row_of[matching_.col_of[i]] = -1;
        matching_.col_of[i] = -1;
      }
    }
    free_class_rows_.clear();
    by_price_.resize(n_);
    for (std::int64_t j = 0; j < n_; ++j) {
      by_price_[j] = j;
    }
    // At equal prices columns without holder go first.
    const auto cheaper = [this](std::int64_t j, std::int64_t k) {
      const double x = matching_.price[j];
      const double y = matching_.price[k];
      const bool held_j = matching_.row_of[j] >= 0;
      const bool held_k = matching_.row_of[k] >= 0;
      return x < y || (x == y && (held_j < held_k || (held_j == held_k && j < k)));
    };
    const auto count = static_cast<std::int64_t>(class_rows_.size());
    const std::int64_t next = std::min(count, n_ - 1);
    std::nth_element(by_price_.begin(), by_price_.begin() + next, by_price_.end(), cheaper);
    const double floor = matching_.price[by_price_[next]] + epsilon;
    std::sort(by_price_.begin(), by_price_.begin() + count);
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t j = by_price_[k];
      set_price(j, std::max(matching_.price[j], floor));
      take(class_rows_[k], j);
    }
    order_class_cols();
  }

  // Sets free every row whose column is worse than its best by more than epsilon.
  void release(double epsilon) {
    free_.clear();
    free_class_rows_.clear();
    for (auto at = rows_.rbegin(); at != rows_.rend(); ++at) {
      const std::int64_t j = matching_.col_of[*at];
      if (j < 0 || profit(*at, j) < choose_best(*at).best - epsilon) {
        leave(*at);
        free_.push_back(*at);
      }
    }
    const double floor = least_price();
    for (const std::int64_t i : class_rows_) {
      const std::int64_t j = matching_.col_of[i];
      if (j < 0 || matching_.price[j] > floor + epsilon) {
        leave(i);
        free_class_rows_.push_back(i);
      }
    }
  }

  void leave(std::int64_t i) {
    if (matching_.col_of[i] >= 0) {
      matching_.row_of[matching_.col_of[i]] = -1;
      matching_.col_of[i] = -1;
    }
  }

  double least_price() const {
    return *std::min_element(matching_.price.begin(), matching_.price.begin() + n_);
  }

  // Raises every price to the highest that constant rows hold, so that these rows are content;
  // rows whose column became dearer are set free.
  void settle_class_rows() {
    if (class_rows_.empty()) {
      return;
    }
    double floor = -infinity;
    for (const std::int64_t i : class_rows_) {
      if (matching_.col_of[i] >= 0) {
        floor = std::max(floor, matching_.price[matching_.col_of[i]]);
      }
    }
    for (std::int64_t j = 0; j < n_; ++j) {
      if (matching_.price[j] < floor) {
        set_price(j, floor);
      }
    }
    order_class_cols();
    release(0.0);
  }

  double mean_spread() {
    double total = 0;
    const std::size_t stride = std::max<std::size_t>(1, rows_.size() / 256);
    std::int64_t count = 0;
    for (std::size_t k = 0; k < rows_.size(); k += stride) {
      const double spread = choose_best(rows_[k]).best - bound_[rows_[k]];
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
    labels_.assign(n_, {infinity, -1, false});
    free_.insert(free_.end(), free_class_rows_.begin(), free_class_rows_.end());
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

  // Row i was reached at `dist`; `own` is what its own column yields.
  void scan(std::int64_t i, double dist, double own) {
    const double base = dist + own;
    if (is_class(classes_.row_value[i])) {
      // All constant rows see the same columns: only the one reached at least cost counts.
      const double offset = base - classes_.row_value[i];
      if (offset < class_row_base_) {
        class_row_base_ = offset;
        interrupt_(n_);
        for (std::int64_t j = 0; j < n_; ++j) {
          if (offset + matching_.price[j] < nearest_free_) {
            reach(j, offset + matching_.price[j], i);
          }
        }
      }
      return;
    }
    if (base < class_col_base_) {
      class_col_base_ = base;
      for (const std::int64_t j : class_cols_) {
        reach(j, base - class_profit(j), i);
      }
    }
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
  const Classes &classes_;
  Matching &matching_;
  double tolerance_;
  bool warm_;
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
  std::vector<std::int64_t> rows_, class_rows_, class_cols_; // ordinary rows; the classes
  std::vector<std::int64_t> free_, free_class_rows_, touched_, by_price_;
  std::vector<Label> labels_;
  std::vector<Event> heap_;
  std::vector<Scan> expanded_;
  double nearest_free_ = infinity;
  std::int64_t nearest_sink_ = -1;
  double class_row_base_ = infinity, class_col_base_ = infinity;
};

} // namespace

template <class T>
DenseResult solve_lists(const RowMatrix<T> &matrix, const Classes &classes, Matching &matching,
                        double tolerance, bool warm, Interrupt &interrupt, ListWork &work) {
  return ListSolver<T>(matrix, classes, matching, tolerance, warm, interrupt, work).run();
}

template DenseResult solve_lists(const RowMatrix<float> &, const Classes &, Matching &, double,
                                 bool, Interrupt &, ListWork &);
template DenseResult solve_lists(const RowMatrix<double> &, const Classes &, Matching &, double,
                                 bool, Interrupt &, ListWork &);

} // namespace lmc
