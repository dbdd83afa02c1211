#include "assignment_cycle_graph.hpp"

#include <array>
#include <mutex>

#include "assignment_rows.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace lmc {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
LMC_INLINE void reduce_impl(const T *row, T sign, const Grid &grid, double u, const double *price,
                            double *out, std::int64_t count) {
  const Grid local = grid;
  for (std::int64_t j = 0; j < count; ++j) {
    out[j] = u + price[j] - local(static_cast<double>(row[j] * sign));
  }
}

// out[j] = u + price_j - a_j.
LMC_CLONES void reduce(const float *row, float sign, const Grid &grid, double u,
                       const double *price, double *out, std::int64_t count) {
  reduce_impl(row, sign, grid, u, price, out, count);
}
LMC_CLONES void reduce(const double *row, double sign, const Grid &grid, double u,
                       const double *price, double *out, std::int64_t count) {
  reduce_impl(row, sign, grid, u, price, out, count);
}

// least_of[j] = min(least_of[j], value_j); returns the least value.
LMC_CLONES double lower_columns(const double *values, double *least_of, std::int64_t count) {
  Doubles least = Doubles{} + infinity;
  std::int64_t j = 0;
  for (; j + width<double> <= count; j += width<double>) {
    const Doubles x = load(values + j);
    store(least_of + j) = smaller(x, load(least_of + j));
    least = smaller(x, least);
  }
  double result = std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
  for (; j < count; ++j) {
    least_of[j] = std::min(values[j], least_of[j]);
    result = std::min(values[j], result);
  }
  return result;
}

// Writes the places where value < limit and returns their number.
LMC_CLONES std::int64_t places_below(const double *values, const double *limits, std::int64_t count,
                                     std::int32_t *places) {
  constexpr std::int64_t block = 4 * width<double>;
  std::int64_t found = 0;
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t end = std::min(count, begin + block);
    if (end - begin == block) {
      Longs below{};
      for (std::int64_t j = begin; j < end; j += width<double>) {
        below |= load(values + j) < load(limits + j);
      }
      if (!(below[0] | below[1] | below[2] | below[3])) {
        continue;
      }
    }
    for (std::int64_t j = begin; j < end; ++j) {
      places[found] = static_cast<std::int32_t>(j);
      found += values[j] < limits[j];
    }
  }
  return found;
}

template <class T> std::int64_t list_capacity(const RowMatrix<T> &matrix) {
  return std::clamp<std::int64_t>(std::max(matrix.rows, matrix.cols) / 200, 5, longest_list);
}

void insert_finite(EdgeLists &lists, std::int64_t node, const Edge &edge) {
  if (edge.weight < infinity) {
    lists.insert(node, edge);
  }
}

} // namespace

template <class T>
CycleGraph<T>::CycleGraph(const RowMatrix<T> &matrix, const Matching &matching,
                          const Certificate &certificate, const Components &components)
    : matrix_(matrix), matching_(matching), components_(components), floor_(certificate.floor),
      u_(certificate.u), price_(matching.price.begin(), matching.price.begin() + matrix.cols),
      wide_(matrix.rows < matrix.cols), pairs_(std::min(matrix.rows, matrix.cols)),
      node_of_row_(matrix.rows), out_(pairs_ + most_hubs, list_capacity(matrix)),
      in_(pairs_ + most_hubs, list_capacity(matrix)) {
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    if (matching.col_of[i] < 0) {
      spare_.push_back(i);
    }
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    if (matching.row_of[j] < 0) {
      spare_.push_back(j);
    }
  }
  find_hubs();
}

// Components that fit on a list leave others their place.
template <class T> void CycleGraph<T>::find_hubs() {
  std::vector<std::int32_t> labels;
  for (std::size_t c = 0; c < components_.sizes.size(); ++c) {
    if (static_cast<std::int32_t>(c) != components_.of_rest &&
        components_.sizes[c] > out_.capacity()) {
      labels.push_back(static_cast<std::int32_t>(c));
    }
  }
  std::stable_sort(labels.begin(), labels.end(), [&](std::int32_t a, std::int32_t b) {
    return components_.sizes[a] > components_.sizes[b];
  });
  labels.insert(labels.begin(), components_.of_rest);
  labels.resize(std::min<std::size_t>(labels.size(), most_hubs));
  hub_cols_.resize(labels.size());
  std::vector<std::int32_t> hub_of(components_.sizes.size(), -1);
  for (std::size_t h = 0; h < labels.size(); ++h) {
    hub_of[labels[h]] = static_cast<std::int32_t>(h);
  }
  for (std::int64_t i = 0; i < matrix_.rows; ++i) {
    const std::int64_t own = matching_.col_of[i];
    const std::int32_t hub = hub_of[components_.of_row[i]];
    node_of_row_[i] = static_cast<std::int32_t>(hub >= 0 ? pairs_ + hub : wide_ ? i : own);
    if (hub >= 0 && own >= 0) {
      hub_cols_[hub].push_back(static_cast<std::int32_t>(own));
    }
  }
  if (wide_) {
    hub_cols_[0].insert(hub_cols_[0].end(), spare_.begin(), spare_.end());
  }
}

template <class T> void CycleGraph<T>::build(int threads, Interrupt &interrupt) {
  leaving_.assign(hubs() * nodes(), infinity);
  entering_.assign(pairs_ * hubs(), infinity);
  centre(threads, interrupt);
  list_outgoing(threads, interrupt);
  list_incoming(threads, interrupt);
  list_hubs();
}

template <class T>
void CycleGraph<T>::reduce_part(std::int64_t i, std::int64_t begin, std::int64_t end,
                                double *out) const {
  reduce(matrix_.row(i) + begin, matrix_.sign, matrix_.grid, u_[i], price_.data() + begin, out,
         end - begin);
}

template <class T> std::int64_t CycleGraph<T>::grain() const {
  return std::max<std::int64_t>(64, (1 << 20) / std::max<std::int64_t>(matrix_.cols, 1));
}

template <class T> void CycleGraph<T>::centre(int threads, Interrupt &interrupt) {
  std::vector<double> out(matrix_.rows, infinity), in(matrix_.cols, infinity);
  Workers workers(interrupt);
  std::mutex merge;
  parallel_for(matrix_.rows, grain(), threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> reduced_row(matrix_.cols), least(matrix_.cols, infinity);
    workers.run(begin, end, [&](std::int64_t i, Interrupt &poll) {
      poll(2 * matrix_.cols);
      reduce_part(i, 0, matrix_.cols, reduced_row.data());
      if (const std::int64_t own = matching_.col_of[i]; own >= 0) {
        reduced_row[own] = infinity;
      }
      out[i] = lower_columns(reduced_row.data(), least.data(), matrix_.cols);
    });
    const std::lock_guard<std::mutex> lock(merge);
    lower_columns(least.data(), in.data(), matrix_.cols);
  });
  const double step = power_of_two(-matrix_.grid.bits);
  for (std::int64_t p = 0; p < pairs_; ++p) {
    double &u = u_[row(p)];
    double &price = price_[col(p)];
    const double least_out =
        matrix_.rows > matrix_.cols ? std::min(out[row(p)], u + floor_) : out[row(p)];
    const double least_in = wide_ ? std::min(in[col(p)], price - floor_) : in[col(p)];
    if (least_out < infinity && least_in < infinity) {
      const double shift = std::trunc((least_in - least_out) / (2 * step)) * step;
      u += shift;
      price -= shift;
    }
  }
}

template <class T> void CycleGraph<T>::list_outgoing(int threads, Interrupt &interrupt) {
  Workers workers(interrupt);
  std::mutex merge;
  const std::vector<double> nothing(nodes(), 0.0);
  if (wide_) {
    for (std::int64_t p = 0; p < pairs_; ++p) {
      double &weight = leaving_[node_of(p)];
      weight = std::min(weight, price_[col(p)] - floor_);
    }
  }
  parallel_for(matrix_.rows, grain(), threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> reduced_row(std::max(matrix_.cols, nodes())), gathered(wide_ ? nodes() : 0);
    std::vector<double> least(hubs() * nodes(), infinity);
    double *const weights = wide_ ? gathered.data() : reduced_row.data();
    GroupScan<double> scan(nodes());
    double spread = 1.0 / 64;
    workers.run(begin, end, [&](std::int64_t i, Interrupt &poll) {
      poll(2 * matrix_.cols);
      reduce_part(i, 0, matrix_.cols, reduced_row.data());
      std::array<double, most_hubs> to_hub;
      to_hub.fill(infinity);
      to_hub[0] = matrix_.rows > matrix_.cols ? u_[i] + floor_ : infinity;
      for (std::int64_t h = 0; h < hubs(); ++h) {
        for (const std::int32_t j : hub_cols_[h]) {
          to_hub[h] = std::min(to_hub[h], reduced_row[j]);
        }
      }
      if (wide_) {
        for (std::int64_t q = 0; q < pairs_; ++q) {
          weights[q] = reduced_row[col(q)];
        }
      }
      for (std::int64_t h = 0; h < hubs(); ++h) {
        for (const std::int32_t j : hub_cols_[h]) {
          if (const std::int64_t q = wide_ ? matching_.row_of[j] : j; q >= 0) {
            weights[q] = infinity;
          }
        }
        weights[pairs_ + h] = to_hub[h];
      }
      const std::int64_t from = node_of_row_[i];
      if (from >= pairs_) {
        lower_columns(weights, least.data() + (from - pairs_) * nodes(), nodes());
        return;
      }
      std::copy_n(to_hub.begin(), hubs(), entering_.begin() + from * hubs());
      weights[from] = infinity;
      scan.read(weights, -1.0, nothing.data());
      const double threshold =
          upper_threshold(scan.maxima(), scan.groups(), std::min(out_.capacity(), pairs_), spread);
      for (const std::int32_t q : scan.places(threshold)) {
        insert_finite(out_, from, {weights[q], q});
      }
      if (threshold > std::numeric_limits<double>::lowest()) {
        out_.lower_bound(from, -threshold);
      }
    });
    const std::lock_guard<std::mutex> lock(merge);
    lower_columns(least.data(), leaving_.data(), hubs() * nodes());
  });
}

template <class T> void CycleGraph<T>::list_incoming(int threads, Interrupt &interrupt) {
  Workers workers(interrupt);
  parallel_for(matrix_.cols, 512, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> weights(end - begin), limits(end - begin);
    std::vector<std::int32_t> places(end - begin);
    const auto node_of_col = [&](std::int64_t j) {
      const std::int64_t i = matching_.row_of[j];
      return i < 0 ? rest() : std::int64_t{node_of_row_[i]};
    };
    for (std::int64_t j = begin; j < end; ++j) {
      limits[j - begin] = node_of_col(j) >= pairs_ ? -infinity : infinity;
    }
    workers.run(0, matrix_.rows, [&](std::int64_t i, Interrupt &poll) {
      const std::int64_t source = node_of_row_[i];
      if (source >= pairs_) {
        return;
      }
      poll(2 * (end - begin));
      reduce_part(i, begin, end, weights.data());
      const std::int64_t found =
          places_below(weights.data(), limits.data(), end - begin, places.data());
      for (std::int64_t k = 0; k < found; ++k) {
        const std::int64_t node = node_of_col(begin + places[k]);
        if (node != source) {
          in_.insert(node, {weights[places[k]], source});
          limits[places[k]] = in_.limit(node);
        }
      }
    });
    for (std::int64_t j = begin; j < end; ++j) {
      if (const std::int64_t node = node_of_col(j); node < pairs_) {
        in_.lower_bound(node, in_.limit(node));
      }
    }
  });
}

template <class T> void CycleGraph<T>::list_hubs() {
  for (std::int64_t hub = pairs_; hub < nodes(); ++hub) {
    for (std::int64_t node = 0; node < nodes(); ++node) {
      if (node_of(node) == node) {
        insert_finite(out_, hub, {edge(hub, node), node});
        insert_finite(in_, node, {edge(hub, node), hub});
        if (node < pairs_) {
          insert_finite(in_, hub, {edge(node, hub), node});
        }
      }
    }
  }
}

template class CycleGraph<float>;
template class CycleGraph<double>;

} // namespace lmc
