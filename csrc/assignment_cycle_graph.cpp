#include "assignment_cycle_graph.hpp"

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
CycleGraph<T>::CycleGraph(const RowMatrix<T> &matrix, const Classes &classes,
                          const Matching &matching, const Certificate &certificate)
    : matrix_(matrix), classes_(classes), matching_(matching), floor_(certificate.floor),
      u_(certificate.u), price_(matching.price.begin(), matching.price.begin() + matrix.cols),
      wide_(matrix.rows < matrix.cols), pairs_(std::min(matrix.rows, matrix.cols)),
      to_rest_(pairs_, infinity), from_rest_(pairs_, infinity),
      out_(pairs_ + 1, list_capacity(matrix)), in_(pairs_ + 1, list_capacity(matrix)) {
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    constant_rows_ += !std::isnan(classes.row_value[i]);
    if (matching.col_of[i] < 0) {
      spare_.push_back(i);
    }
  }
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    constant_cols_ += !std::isnan(classes.col_value[j]);
    if (matching.row_of[j] < 0) {
      spare_.push_back(j);
    }
  }
}

template <class T> void CycleGraph<T>::build(int threads, Interrupt &interrupt) {
  centre(threads, interrupt);
  if (wide_) {
    for (std::int64_t p = 0; p < pairs_; ++p) {
      from_rest_[p] = price_[col(p)] - floor_;
    }
  }
  list_outgoing(threads, interrupt);
  list_incoming(threads, interrupt);
  for (std::int64_t p = 0; p < pairs_; ++p) {
    insert_finite(out_, rest(), {from_rest_[p], p});
    insert_finite(in_, rest(), {to_rest_[p], p});
  }
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
    // What the constant rows and columns have in common is not to be lost.
    if (is_constant(p, true) || is_constant(p, false)) {
      continue;
    }
    if (least_out < infinity && least_in < infinity) {
      const double shift = std::trunc((least_in - least_out) / (2 * step)) * step;
      u += shift;
      price -= shift;
    }
  }
}

template <class T> void CycleGraph<T>::list_outgoing(int threads, Interrupt &interrupt) {
  Workers workers(interrupt);
  const std::vector<double> nothing(pairs_ + 1, 0.0);
  parallel_for(pairs_, grain(), threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> reduced_row(matrix_.cols + 1), gathered(wide_ ? pairs_ + 1 : 0);
    double *const weights = wide_ ? gathered.data() : reduced_row.data();
    GroupScan<double> scan(pairs_ + 1);
    double spread = 1.0 / 64;
    workers.run(begin, end, [&](std::int64_t p, Interrupt &poll) {
      poll(2 * matrix_.cols);
      reduce_part(row(p), 0, matrix_.cols, reduced_row.data());
      if (wide_) {
        for (const std::int64_t j : spare_) {
          to_rest_[p] = std::min(to_rest_[p], reduced_row[j]);
        }
      } else if (matrix_.rows > matrix_.cols) {
        to_rest_[p] = u_[row(p)] + floor_;
      }
      if (wide_) {
        for (std::int64_t q = 0; q < pairs_; ++q) {
          weights[q] = reduced_row[col(q)];
        }
      }
      weights[p] = infinity;
      weights[rest()] = to_rest_[p];
      scan.read(weights, -1.0, nothing.data());
      const double threshold =
          upper_threshold(scan.maxima(), scan.groups(), std::min(out_.capacity(), pairs_), spread);
      for (const std::int32_t q : scan.places(threshold)) {
        insert_finite(out_, p, {weights[q], q});
      }
      if (threshold > std::numeric_limits<double>::lowest()) {
        out_.lower_bound(p, -threshold);
      }
    });
  });
}

template <class T> void CycleGraph<T>::list_incoming(int threads, Interrupt &interrupt) {
  Workers workers(interrupt);
  parallel_for(matrix_.cols, 512, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> weights(end - begin), limits(end - begin);
    std::vector<std::int32_t> places(end - begin);
    for (std::int64_t j = begin; j < end; ++j) {
      limits[j - begin] = matching_.row_of[j] < 0 ? -infinity : infinity;
    }
    workers.run(0, matrix_.rows, [&](std::int64_t i, Interrupt &poll) {
      poll(2 * (end - begin));
      reduce_part(i, begin, end, weights.data());
      const std::int64_t own = matching_.col_of[i];
      if (own < 0) {
        for (std::int64_t j = begin; j < end; ++j) {
          from_rest_[j] = std::min(from_rest_[j], weights[j - begin]);
        }
        return;
      }
      const std::int64_t source = wide_ ? i : own;
      const std::int64_t found =
          places_below(weights.data(), limits.data(), end - begin, places.data());
      for (std::int64_t k = 0; k < found; ++k) {
        const std::int64_t j = begin + places[k];
        if (j != own) {
          const std::int64_t node = wide_ ? matching_.row_of[j] : j;
          in_.insert(node, {weights[places[k]], source});
          limits[places[k]] = in_.limit(node);
        }
      }
    });
    for (std::int64_t j = begin; j < end; ++j) {
      const std::int64_t node = wide_ ? matching_.row_of[j] : j;
      if (node >= 0) {
        in_.lower_bound(node, in_.limit(node));
        insert_finite(in_, node, {from_rest_[node], rest()});
      }
    }
  });
}

template class CycleGraph<float>;
template class CycleGraph<double>;

} // namespace lmc
