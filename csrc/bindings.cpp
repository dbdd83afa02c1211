// The only file that knows Python. Shapes and values are checked in the Python layer above.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <numeric>
#include <optional>
#include <thread>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "assignment.hpp"
#include "barrier_cpu.hpp"
#include "cross_entropy_cpu.hpp"
#include "cuda_driver.hpp"
#include "inner_products_cpu.hpp"
#include "instruction_set.hpp"
#include "matched_sums.hpp"
#include "parallel.hpp"
#include "relu_network_cpu.hpp"
#include "similarity_cpu.hpp"
#include "version.hpp"

namespace nb = nanobind;

namespace {

template <class T> using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T> using Optional = std::optional<Array<T>>;

constexpr std::int64_t report_fields = 8;
constexpr std::int64_t large_matrix = 1 << 20; // entries

// Looks for Ctrl-C every 50 ms, on the thread that made the call; other threads see what it found.
class SignalPoll {
public:
  bool operator()() {
    if (std::this_thread::get_id() == caller_ && !found_) {
      const auto now = std::chrono::steady_clock::now();
      if (now >= next_) {
        next_ = now + std::chrono::milliseconds(50);
        const nb::gil_scoped_acquire gil;
        found_ = PyErr_CheckSignals() != 0;
      }
    }
    return found_;
  }

private:
  std::thread::id caller_ = std::this_thread::get_id();
  std::chrono::steady_clock::time_point next_{}; // the first look is at once
  std::atomic<bool> found_{false};
};

template <class T> T *part(const Optional<T> &array, std::int64_t index, std::int64_t size) {
  return array ? array->data() + index * size : nullptr;
}

void write_report(const lmc::AssignmentReport &report, double *out) {
  out[0] = report.objective;
  out[1] = report.gap;
  out[2] = report.grid;
  out[3] = static_cast<double>(report.moved);
  out[4] = report.moved_by;
  out[5] = static_cast<double>(report.rows_read);
  out[6] = static_cast<double>(report.list_visits);
  out[7] = static_cast<double>(report.augmentations);
}

// Matrices of one shape, what is known of them and where their answers go.
struct AssignmentBatch {
  std::uintptr_t address;
  bool float64;
  std::int64_t batch, batch_stride, rows, cols, row_stride, col_stride;
  Optional<const std::int64_t> prefer;
  Optional<const double> initial_u, initial_v;
  Array<std::int64_t> cols_out;
  Array<double> reports;
  Optional<double> u, v, margins, regrets;

  // `options` say what all problems have in common.
  lmc::AssignmentReport solve(std::int64_t b, lmc::AssignmentOptions options) const {
    const std::int64_t width = float64 ? 8 : 4;
    const lmc::CostMatrix cost{reinterpret_cast<const char *>(address) + b * batch_stride * width,
                               float64,
                               rows,
                               cols,
                               row_stride,
                               col_stride};
    options.prefer = part(prefer, b, rows);
    options.initial_u = part(initial_u, b, rows);
    options.initial_v = part(initial_v, b, cols);
    const lmc::AssignmentOutput output{cols_out.data() + b * rows, part(u, b, rows),
                                       part(v, b, cols), part(margins, b, rows),
                                       part(regrets, b, rows)};
    const lmc::AssignmentReport report = lmc::solve_assignment(cost, options, output);
    write_report(report, reports.data() + b * report_fields);
    return report;
  }
};

// Returns (status, batch, problem, row, col) of the first problem that has no answer.
nb::tuple solve_assignments(const std::vector<const AssignmentBatch *> &batches, bool maximize,
                            bool keep, double max_gap, int threads) {
  struct Problem {
    std::int64_t batch, place, entries;
  };
  std::vector<Problem> problems;
  for (std::size_t k = 0; k < batches.size(); ++k) {
    for (std::int64_t b = 0; b < batches[k]->batch; ++b) {
      problems.push_back({static_cast<std::int64_t>(k), b, batches[k]->rows * batches[k]->cols});
    }
  }
  const auto count = static_cast<std::int64_t>(problems.size());
  // Threads that end with the small ones end together.
  std::vector<std::int64_t> order(problems.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto entries = [&](std::int64_t k) {
    return problems[static_cast<std::size_t>(k)].entries;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t x, std::int64_t y) { return entries(x) > entries(y); });
  // A piece is worth a thread from about a tenth of a millisecond on.
  constexpr std::int64_t piece_entries = 1 << 14;
  std::vector<std::int64_t> pieces{0};
  std::int64_t listed = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    listed += entries(order[static_cast<std::size_t>(k)]);
    if (listed >= piece_entries || k + 1 == count) {
      pieces.push_back(k + 1);
      listed = 0;
    }
  }
  // Few large matrices are solved one after the other, by all threads.
  const bool apart = count >= 2 * threads || (count > 1 && entries(order[0]) < large_matrix);
  SignalPoll poll;
  std::atomic<std::int64_t> failed{count};
  std::vector<lmc::AssignmentReport> results(problems.size());
  {
    const nb::gil_scoped_release release;
    lmc::AssignmentOptions options;
    options.maximize = maximize;
    options.keep = keep;
    options.max_gap = max_gap;
    options.threads = apart ? 1 : threads;
    options.interrupted = [&poll] { return poll(); };
    const auto solve = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t at = pieces[static_cast<std::size_t>(begin)];
           at < pieces[static_cast<std::size_t>(end)]; ++at) {
        const std::int64_t k = order[static_cast<std::size_t>(at)];
        if (k > failed) {
          continue;
        }
        const Problem &problem = problems[static_cast<std::size_t>(k)];
        lmc::AssignmentReport &result = results[static_cast<std::size_t>(k)];
        result = batches[static_cast<std::size_t>(problem.batch)]->solve(problem.place, options);
        if (result.status != lmc::AssignmentStatus::ok) {
          std::int64_t first = failed;
          while (k < first && !failed.compare_exchange_weak(first, k)) {
          }
        }
      }
    };
    lmc::parallel_for(static_cast<std::int64_t>(pieces.size()) - 1, 1, apart ? threads : 1, solve,
                      [&poll] { poll(); });
  }
  if (PyErr_Occurred()) {
    throw nb::python_error();
  }
  for (std::size_t k = 0; k < problems.size(); ++k) {
    if (results[k].status != lmc::AssignmentStatus::ok) {
      return nb::make_tuple(static_cast<int>(results[k].status), problems[k].batch,
                            problems[k].place, results[k].bad_row, results[k].bad_col);
    }
  }
  return nb::make_tuple(0, -1, -1, -1, -1);
}

// A matrix or vector in row order by the buffer protocol, which costs less than an nb::ndarray.
class Buffer {
public:
  Buffer(nb::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags | PyBUF_C_CONTIGUOUS) != 0) {
      PyErr_Clear();
      view_.obj = nullptr;
    }
  }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() {
    if (view_.obj) {
      PyBuffer_Release(&view_);
    }
  }

  bool is_matrix() const {
    return view_.obj && view_.ndim == 2 && (has_format('f') || has_format('d')) &&
           reinterpret_cast<std::uintptr_t>(view_.buf) % itemsize() == 0;
  }
  void *data() const { return view_.buf; }
  std::uintptr_t itemsize() const { return static_cast<std::uintptr_t>(view_.itemsize); }
  std::int64_t extent(int axis) const { return view_.shape[axis]; }

private:
  bool has_format(char code) const {
    return view_.format && view_.format[0] == code && view_.format[1] == 0;
  }

  Py_buffer view_{};
};

// Fewer entries are solved sooner than other Python threads could make use of the time.
constexpr std::int64_t worth_releasing = 1 << 14;

// The commonest call at the least cost: one matrix in row order. False where there is something to
// complain about, which is left to the general call. pairs: int64 (2, rows), the rows' numbers and
// their columns.
bool solve_matrix(nb::handle cost, bool maximize, int threads, nb::handle pairs) {
  const Buffer matrix(cost, PyBUF_FORMAT);
  const Buffer out(pairs, PyBUF_WRITABLE);
  if (!matrix.is_matrix() || !out.data()) {
    return false;
  }
  const std::int64_t rows = matrix.extent(0);
  const std::int64_t cols = matrix.extent(1);
  SignalPoll poll;
  lmc::AssignmentOptions options;
  options.maximize = maximize;
  options.threads = threads;
  options.interrupted = [&poll] { return poll(); };
  options.objective = false;
  auto *numbers = static_cast<std::int64_t *>(out.data());
  std::iota(numbers, numbers + rows, std::int64_t{0});
  lmc::AssignmentStatus status{};
  {
    std::optional<nb::gil_scoped_release> release;
    if (rows * cols > worth_releasing) {
      release.emplace();
    }
    status = lmc::solve_assignment({matrix.data(), matrix.itemsize() == 8, rows, cols, cols, 1},
                                   options, {.cols = numbers + rows})
                 .status;
  }
  if (PyErr_Occurred()) {
    throw nb::python_error();
  }
  return status == lmc::AssignmentStatus::ok;
}

void bind_cuda(nb::module_ &m) {
  using lmc::cuda::Module;
  m.def("cuda_device_count", &lmc::cuda::device_count);
  nb::class_<Module>(m, "CudaModule")
      .def("__init__",
           [](Module *self, int device, nb::bytes image) {
             new (self) Module(lmc::cuda::load_module(device, image.c_str()));
           })
      .def("kernel",
           [](const Module &self, const std::string &name, int shared_bytes) {
             return reinterpret_cast<std::uintptr_t>(
                 lmc::cuda::find_kernel(self, name, shared_bytes));
           })
      .def("launch",
           [](const Module &self, std::uintptr_t kernel, unsigned x, unsigned y, unsigned z,
              unsigned threads, unsigned shared_bytes, std::uintptr_t stream, nb::bytes params) {
             lmc::cuda::launch(self, reinterpret_cast<void *>(kernel), {x, y, z}, threads,
                               shared_bytes, stream, params.c_str());
           });
}

// Shapes: see MixedLayer.
lmc::MixedLayer mixed_layer(const Array<const float> &rows,
                            const Array<const std::int64_t> &unit_rows,
                            const Array<const std::int64_t> &networks,
                            const Array<const float> &shares, const Optional<const float> &scale,
                            const Optional<const float> &shift) {
  return {static_cast<std::int64_t>(networks.shape(0)),
          static_cast<std::int64_t>(networks.shape(1)),
          static_cast<std::int64_t>(unit_rows.shape(1)),
          static_cast<std::int64_t>(rows.shape(1)),
          static_cast<std::int64_t>(rows.shape(0)),
          rows.data(),
          unit_rows.data(),
          networks.data(),
          shares.data(),
          scale ? scale->data() : nullptr,
          shift ? shift->data() : nullptr};
}

void mixed_units(const Array<const float> &rows, const Array<const std::int64_t> &unit_rows,
                 const Array<const std::int64_t> &networks, const Array<const float> &shares,
                 const Optional<const float> &scale, const Optional<const float> &shift, bool relu,
                 const Array<float> &out, int threads) {
  const nb::gil_scoped_release release;
  lmc::mixed_units(mixed_layer(rows, unit_rows, networks, shares, scale, shift), relu, out.data(),
                   threads);
}

void mixed_relu_linear(const Array<const float> &rows, const Array<const std::int64_t> &unit_rows,
                       const Array<const std::int64_t> &networks, const Array<const float> &shares,
                       const Optional<const float> &scale, const Optional<const float> &shift,
                       const Array<const float> &weight, const Array<const float> &bias,
                       const Array<float> &out, int threads) {
  const nb::gil_scoped_release release;
  // The layer's outputs are the last rows of each point.
  const std::size_t skipped = out.shape(1) - weight.shape(1);
  lmc::mixed_relu_linear(mixed_layer(rows, unit_rows, networks, shares, scale, shift),
                         static_cast<std::int64_t>(weight.shape(1)), weight.data(), bias.data(),
                         out.data() + skipped * out.shape(2),
                         static_cast<std::int64_t>(out.shape(1) * out.shape(2)), threads);
}

// Weights of every network (outputs, inputs), biases of every network or none, scale and shift.
using MixedLinear = std::tuple<std::vector<Array<const float>>, std::vector<Array<const float>>,
                               Optional<const float>, Optional<const float>>;

std::vector<lmc::MixedLinear> mixed_linears(const std::vector<MixedLinear> &layers) {
  std::vector<lmc::MixedLinear> found;
  for (const auto &[weights, biases, scale, shift] : layers) {
    lmc::MixedLinear layer{static_cast<std::int64_t>(weights.front().shape(1)),
                           static_cast<std::int64_t>(weights.front().shape(0)),
                           {},
                           {},
                           scale ? scale->data() : nullptr,
                           shift ? shift->data() : nullptr};
    for (const auto &weight : weights) {
      layer.weights.push_back(weight.data());
    }
    for (const auto &bias : biases) {
      layer.biases.push_back(bias.data());
    }
    found.push_back(std::move(layer));
  }
  return found;
}

void mixed_relu_network(const Array<const float> &rows, const Array<const std::int64_t> &unit_rows,
                        const Array<const std::int64_t> &networks, const Array<const float> &shares,
                        const Optional<const float> &scale, const Optional<const float> &shift,
                        const std::vector<MixedLinear> &layers, const Array<float> &out,
                        int instruction_set, int threads) {
  SignalPoll poll;
  {
    const std::vector<lmc::MixedLinear> linears = mixed_linears(layers);
    const nb::gil_scoped_release release;
    // The network's outputs are the last rows of each point.
    const std::size_t skipped = out.shape(1) - static_cast<std::size_t>(linears.back().outputs);
    lmc::mixed_relu_network(mixed_layer(rows, unit_rows, networks, shares, scale, shift), linears,
                            out.data() + skipped * out.shape(2),
                            static_cast<std::int64_t>(out.shape(1) * out.shape(2)), instruction_set,
                            threads, [&poll] { return poll(); });
  }
  if (PyErr_Occurred()) {
    throw nb::python_error();
  }
}

// logits (points, classes, examples), labels (examples), loss and wrong (points, examples),
// sums (points, 2).
void cross_entropy(const Array<const float> &logits, const Array<const std::int32_t> &labels,
                   const Array<float> &loss, const Array<std::uint8_t> &wrong,
                   const Array<double> &sums, int threads) {
  const nb::gil_scoped_release release;
  lmc::cross_entropy(logits.data(), labels.data(), static_cast<std::int64_t>(logits.shape(0)),
                     static_cast<std::int64_t>(logits.shape(1)),
                     static_cast<std::int64_t>(logits.shape(2)), loss.data(), wrong.data(),
                     sums.data(), threads);
}

// Strides of (unit, row, k), in numbers.
using Strides = std::array<std::int64_t, 3>;

template <class T> lmc::UnitRows<T> unit_rows(std::uintptr_t address, const Strides &strides) {
  return {reinterpret_cast<const T *>(address), strides[0], strides[1], strides[2]};
}

// Address and strides of a and of b, rows and block, and addresses of rows_a, rows_b and rows_last.
// A null address is 0.
using ProductSum = std::tuple<std::uintptr_t, Strides, std::uintptr_t, Strides, std::int64_t,
                              std::int64_t, std::uintptr_t, std::uintptr_t, std::uintptr_t>;

// Sums, address and units of the matrix they are added to, and whether it starts from 0.
using SimilarityUpdate = std::tuple<std::vector<ProductSum>, std::uintptr_t, std::int64_t, bool>;

template <class T>
void add_products(const std::vector<SimilarityUpdate> &updates, int instruction_set, int threads) {
  SignalPoll poll;
  {
    const nb::gil_scoped_release release;
    std::vector<lmc::SimilarityUpdate<T>> compiled;
    for (const auto &[sums, similarity, units, afresh] : updates) {
      std::vector<lmc::ProductSum<T>> products;
      for (const auto &[a, a_strides, b, b_strides, rows, block, rows_a, rows_b, rows_last] :
           sums) {
        products.push_back({unit_rows<T>(a, a_strides), unit_rows<T>(b, b_strides), rows, block,
                            reinterpret_cast<const std::int64_t *>(rows_a),
                            reinterpret_cast<const std::int64_t *>(rows_b),
                            reinterpret_cast<const std::int64_t *>(rows_last)});
      }
      compiled.push_back({std::move(products), units, reinterpret_cast<T *>(similarity), afresh});
    }
    lmc::add_products(compiled, instruction_set, threads, [&poll] { return poll(); });
  }
  if (PyErr_Occurred()) {
    throw nb::python_error();
  }
}

// Addresses of a, b, the row and the column index, and (rows, columns, block). A null address is 0.
using RowProducts = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t,
                               std::int64_t, std::int64_t, std::int64_t>;

template <class T>
void row_inner_products(const std::vector<RowProducts> &tensors, const Array<double> &sums,
                        int threads) {
  const nb::gil_scoped_release release;
  std::vector<lmc::RowProducts<T>> products;
  double *out = sums.data();
  for (const auto &[a, b, row_index, column_index, rows, columns, block] : tensors) {
    products.push_back({reinterpret_cast<const T *>(a), reinterpret_cast<const T *>(b), rows,
                        columns, block, reinterpret_cast<const std::int64_t *>(row_index),
                        reinterpret_cast<const std::int64_t *>(column_index), out});
    out += rows;
  }
  lmc::row_inner_products(products, threads);
}

template <class T>
std::tuple<double, double, double, double, std::int64_t>
matched_sums(std::uintptr_t similarity, std::int64_t units, std::uintptr_t current,
             std::uintptr_t target) {
  const lmc::MatchedSums sums = lmc::matched_sums(reinterpret_cast<const T *>(similarity), units,
                                                  reinterpret_cast<const std::int64_t *>(current),
                                                  reinterpret_cast<const std::int64_t *>(target));
  return {sums.identity, sums.before, sums.after, sums.magnitude, sums.moved};
}

// `found` has three rows as long as the lists.
std::int64_t changed_rows(std::uintptr_t rows, std::uintptr_t last,
                          const Array<std::int64_t> &found) {
  return lmc::changed_rows(reinterpret_cast<const std::int64_t *>(rows),
                           reinterpret_cast<const std::int64_t *>(last),
                           static_cast<std::int64_t>(found.shape(1)), found.data());
}

} // namespace

NB_MODULE(_core, m) {
  m.def("compiler", &lmc::compiler);
  nb::class_<AssignmentBatch>(m, "AssignmentBatch")
      .def(
          nb::init<std::uintptr_t, bool, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                   std::int64_t, std::int64_t, Optional<const std::int64_t>, Optional<const double>,
                   Optional<const double>, Array<std::int64_t>, Array<double>, Optional<double>,
                   Optional<double>, Optional<double>, Optional<double>>(),
          nb::arg("address"), nb::arg("float64"), nb::arg("batch"), nb::arg("batch_stride"),
          nb::arg("rows"), nb::arg("cols"), nb::arg("row_stride"), nb::arg("col_stride"),
          nb::arg("prefer").none(), nb::arg("initial_u").none(), nb::arg("initial_v").none(),
          nb::arg("cols_out").noconvert(), nb::arg("reports").noconvert(), nb::arg("u").none(),
          nb::arg("v").none(), nb::arg("margins").none(), nb::arg("regrets").none());
  m.def("solve_assignments", &solve_assignments, nb::arg("batches"), nb::arg("maximize"),
        nb::arg("keep"), nb::arg("max_gap"), nb::arg("threads"));
  m.def("solve_matrix", &solve_matrix); // without names, which would cost it time
  bind_cuda(m);
  m.attr("best_instruction_set") = lmc::best_instruction_set();
  m.def("add_products_float32", &add_products<float>, nb::arg("updates"),
        nb::arg("instruction_set"), nb::arg("threads"));
  m.def("add_products_float64", &add_products<double>, nb::arg("updates"),
        nb::arg("instruction_set"), nb::arg("threads"));
  m.def("row_inner_products_float32", &row_inner_products<float>, nb::arg("tensors"),
        nb::arg("sums").noconvert(), nb::arg("threads"));
  m.def("row_inner_products_float64", &row_inner_products<double>, nb::arg("tensors"),
        nb::arg("sums").noconvert(), nb::arg("threads"));
  m.def("matched_sums_float32", &matched_sums<float>, nb::arg("similarity"), nb::arg("units"),
        nb::arg("current"), nb::arg("target"));
  m.def("matched_sums_float64", &matched_sums<double>, nb::arg("similarity"), nb::arg("units"),
        nb::arg("current"), nb::arg("target"));
  m.def("changed_rows", &changed_rows, nb::arg("rows"), nb::arg("last"),
        nb::arg("found").noconvert());
  m.def("cross_entropy", &cross_entropy, nb::arg("logits").noconvert(),
        nb::arg("labels").noconvert(), nb::arg("loss").noconvert(), nb::arg("wrong").noconvert(),
        nb::arg("sums").noconvert(), nb::arg("threads"));
  m.def("mixed_units", &mixed_units, nb::arg("rows").noconvert(), nb::arg("unit_rows").noconvert(),
        nb::arg("networks").noconvert(), nb::arg("shares").noconvert(), nb::arg("scale").none(),
        nb::arg("shift").none(), nb::arg("relu"), nb::arg("out").noconvert(), nb::arg("threads"));
  m.def("mixed_relu_linear", &mixed_relu_linear, nb::arg("rows").noconvert(),
        nb::arg("unit_rows").noconvert(), nb::arg("networks").noconvert(),
        nb::arg("shares").noconvert(), nb::arg("scale").none(), nb::arg("shift").none(),
        nb::arg("weight").noconvert(), nb::arg("bias").noconvert(), nb::arg("out").noconvert(),
        nb::arg("threads"));
  m.def("relu_network_bytes", &lmc::relu_network_bytes, nb::arg("units"));
  m.def("mixed_relu_network", &mixed_relu_network, nb::arg("rows").noconvert(),
        nb::arg("unit_rows").noconvert(), nb::arg("networks").noconvert(),
        nb::arg("shares").noconvert(), nb::arg("scale").none(), nb::arg("shift").none(),
        nb::arg("layers"), nb::arg("out").noconvert(), nb::arg("instruction_set"),
        nb::arg("threads"));
}
