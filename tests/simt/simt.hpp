// A CUDA thread block on the host, for testing kernels where there is no GPU.
//
// Every thread is a fibre. The scheduler picks the next runnable one at random, so a missing
// barrier shows as a wrong result under some seed. Shared memory starts as 0xff bytes (NaN in every
// format). Asynchronous copies are lazy: the data moves when the thread waits for it and never
// before. Warp-wide instructions gather all 32 lanes; a warp or block whose threads meet at
// different places is an error, not a hang.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)

namespace simt {

struct Index {
  int x = 0, y = 0, z = 0;
};

struct Copy {
  void *to;
  const void *from;
  int available;
  int size;
  int group;
};

struct Fibre {
  ucontext_t start{};
  jmp_buf resume{};
  bool started = false;
  bool done = false;
  int index = 0;
  int committed = 0;
  std::vector<Copy> copies;
  std::unique_ptr<unsigned char[]> stack;
};

struct Meeting { // threads that wait for each other: a barrier or a warp-wide instruction
  int arrived = 0;
  int place = 0;
  void *arguments[32] = {};
  std::vector<int> waiting;
};

struct Machine {
  static constexpr std::size_t stack_bytes = 256 * 1024;
  std::vector<Fibre> fibres;
  std::vector<int> ready;
  std::vector<Meeting> warps;
  Meeting block;
  std::vector<unsigned char> shared;
  std::function<void()> body;
  std::mt19937 random;
  std::string error;
  ucontext_t scheduler{};
  jmp_buf scheduler_resume{};
  int current = 0;
  int alive = 0;
  const void *scheduler_stack = nullptr;
  std::size_t scheduler_stack_size = 0;
};

inline Machine machine;
inline Index thread_index, block_index, block_size, grid_size;

inline Fibre &self() { return machine.fibres[std::size_t(machine.current)]; }

// Back to the scheduler. The jump avoids the system calls of swapcontext; AddressSanitizer has to
// be told of every change of stack, and of the last one of a fibre by a null pointer.
inline void leave([[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, machine.scheduler_stack,
                                 machine.scheduler_stack_size);
  if (last)
    setcontext(&machine.scheduler);
  swapcontext(&self().start, &machine.scheduler);
  __sanitizer_finish_switch_fiber(fake, &machine.scheduler_stack, &machine.scheduler_stack_size);
#else
  if (_setjmp(self().resume) == 0)
    _longjmp(machine.scheduler_resume, 1);
#endif
}

inline void fail(const std::string &what) {
  if (machine.error.empty())
    machine.error = what;
  leave(true);
  std::abort();
}

inline void fibre_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_stack_size);
#endif
  machine.body();
  self().done = true;
  --machine.alive;
  leave(true);
}

inline void enter(int index) {
  machine.current = index;
  Fibre &fibre = self();
  thread_index.x = fibre.index;
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fibre.stack.get(), Machine::stack_bytes);
  swapcontext(&machine.scheduler, &fibre.start);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  if (_setjmp(machine.scheduler_resume) != 0)
    return;
  if (fibre.started)
    _longjmp(fibre.resume, 1);
  fibre.started = true;
  setcontext(&fibre.start);
#endif
}

// Waits until `expected` threads have come; the last one runs `finish` for all of them and goes on.
template <class Finish>
void meet(Meeting &meeting, int expected, int slot, void *arguments, int place, const char *what,
          Finish finish) {
  if (meeting.arrived > 0 && meeting.place != place)
    fail(std::string(what) + ": threads meet at different places");
  meeting.place = place;
  if (slot >= 0)
    meeting.arguments[slot] = arguments;
  if (++meeting.arrived < expected) {
    meeting.waiting.push_back(machine.current);
    leave(false);
    return;
  }
  finish(meeting.arguments);
  meeting.arrived = 0;
  machine.ready.insert(machine.ready.end(), meeting.waiting.begin(), meeting.waiting.end());
  meeting.waiting.clear();
}

template <class Arguments, class Finish>
void meet_warp(Arguments &arguments, int place, Finish finish) {
  meet(machine.warps[std::size_t(thread_index.x / 32)], 32, thread_index.x % 32, &arguments, place,
       "warp instruction", [&](void *(&all)[32]) {
         Arguments *lanes[32];
         for (int lane = 0; lane < 32; ++lane)
           lanes[lane] = static_cast<Arguments *>(all[lane]);
         finish(lanes);
       });
}

inline bool run_block(int threads, std::size_t shared_bytes) {
  Machine &m = machine;
  if (int(m.fibres.size()) != threads) {
    m.fibres.clear();
    m.fibres.resize(std::size_t(threads));
    for (Fibre &fibre : m.fibres)
      fibre.stack = std::make_unique<unsigned char[]>(Machine::stack_bytes);
  }
  m.shared = std::vector<unsigned char>(shared_bytes, 0xff);
  m.warps.assign(std::size_t((threads + 31) / 32), Meeting{});
  m.block = Meeting{};
  m.ready.clear();
  m.alive = threads;
  for (int t = 0; t < threads; ++t) {
    Fibre &fibre = m.fibres[std::size_t(t)];
    fibre.started = fibre.done = false;
    fibre.index = t;
    fibre.committed = 0;
    fibre.copies.clear();
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack.get();
    fibre.start.uc_stack.ss_size = Machine::stack_bytes;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, fibre_main, 0);
    m.ready.push_back(t);
  }
  int held_back = 0;
  for (unsigned switches = 0; !m.ready.empty() && m.error.empty();) {
    // One warp at a time is held back as long as others can run: it meets what they did far ahead
    // of it.
    if (switches++ % 4096 == 0)
      held_back = int(m.random() % m.warps.size());
    std::size_t pick = m.random() % m.ready.size();
    for (int attempt = 0; attempt < 16 && m.ready[pick] / 32 == held_back; ++attempt)
      pick = m.random() % m.ready.size();
    const int next = m.ready[pick];
    m.ready[pick] = m.ready.back();
    m.ready.pop_back();
    enter(next);
  }
  if (m.error.empty() && m.alive > 0)
    m.error = "deadlock: some threads wait for threads that have ended";
  return m.error.empty();
}

// Runs every block of a grid, in random order. Returns an empty string or what went wrong.
inline std::string launch(Index grid, int threads, std::size_t shared_bytes, unsigned seed,
                          std::function<void()> body) {
  machine.random.seed(seed);
  machine.error.clear();
  machine.body = std::move(body);
  block_size = {threads, 1, 1};
  grid_size = grid;
  std::vector<Index> blocks;
  for (int z = 0; z < grid.z; ++z)
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; ++x)
        blocks.push_back({x, y, z});
  std::shuffle(blocks.begin(), blocks.end(), machine.random);
  for (const Index &block : blocks) {
    block_index = block;
    if (!run_block(threads, shared_bytes))
      break;
  }
  return machine.error;
}

} // namespace simt

#define threadIdx (simt::thread_index)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)

namespace lmc {

inline unsigned char *shared_memory() { return simt::machine.shared.data(); }

inline void barrier(int place = __builtin_LINE()) {
  simt::meet(simt::machine.block, simt::block_size.x, -1, nullptr, place, "barrier", [](auto &) {});
}

inline float bits_to_float(UInt32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline UInt32 float_to_bits(float value) {
  UInt32 bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline double bits_to_double(Int64 bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

inline Int64 double_to_bits(double value) {
  Int64 bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}

inline Int64 round_to_integer(double value) { return std::llrint(value); }

inline UInt16 float_to_half(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  UInt16 bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

inline float half_to_float(UInt16 bits) {
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}

inline UInt32 pack_halves(float low, float high) {
  return UInt32(float_to_half(low)) | UInt32(float_to_half(high)) << 16;
}

template <bool Transposed>
void load_matrices(UInt32 (&out)[4], const UInt16 *row, int place = __builtin_LINE()) {
  struct Arguments {
    UInt32 *out;
    const UInt16 *row;
  } arguments{out, row};
  simt::meet_warp(arguments, place, [](Arguments *(&lanes)[32]) {
    for (int block = 0; block < 4; ++block)
      for (int lane = 0; lane < 32; ++lane) {
        const int r = lane / 4, c = lane % 4 * 2;
        UInt32 pair[2];
        for (int e = 0; e < 2; ++e) {
          const int source = Transposed ? c + e : r, column = Transposed ? r : c + e;
          pair[e] = lanes[8 * block + source]->row[column];
        }
        lanes[lane]->out[block] = pair[0] | pair[1] << 16;
      }
  });
}

// Towards zero, as tensor cores add; the products themselves are exact.
inline float truncate(double value) {
  float rounded = static_cast<float>(value);
  if (std::isfinite(rounded) && std::fabs(double(rounded)) > std::fabs(value))
    rounded = std::nextafterf(rounded, 0.0f);
  return rounded;
}

inline void multiply_add(float (&d)[4], const UInt32 (&a)[4], UInt32 b0, UInt32 b1,
                         int place = __builtin_LINE()) {
  struct Arguments {
    float *d;
    const UInt32 *a;
    UInt32 b[2];
  } arguments{d, a, {b0, b1}};
  simt::meet_warp(arguments, place, [](Arguments *(&lanes)[32]) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int r = lane / 4, c = lane % 4 * 2;
      for (int e = 0; e < 2; ++e) {
        for (int part = 0; part < 4; ++part)
          left[r + part % 2 * 8][c + e + part / 2 * 8] =
              half_to_float(UInt16(lanes[lane]->a[part] >> (16 * e)));
        for (int part = 0; part < 2; ++part)
          right[c + e + part * 8][r] = half_to_float(UInt16(lanes[lane]->b[part] >> (16 * e)));
      }
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 4; ++e) {
        const int r = lane / 4 + e / 2 * 8, c = lane % 4 * 2 + e % 2;
        double value = lanes[lane]->d[e];
        for (int k = 0; k < 16; ++k)
          value += double(left[r][k]) * double(right[k][c]);
        lanes[lane]->d[e] = truncate(value);
      }
  });
}

inline void multiply_add(double (&d)[2], double a, double b, int place = __builtin_LINE()) {
  struct Arguments {
    double *d;
    double a, b;
  } arguments{d, a, b};
  simt::meet_warp(arguments, place, [](Arguments *(&lanes)[32]) {
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 2; ++e)
        for (int k = 0; k < 4; ++k)
          lanes[lane]->d[e] = std::fma(lanes[lane / 4 * 4 + k]->a,
                                       lanes[(lane % 4 * 2 + e) * 4 + k]->b, lanes[lane]->d[e]);
  });
}

template <int Bytes> void copy_async(void *shared, const void *global, int available) {
  const auto offset =
      reinterpret_cast<std::uintptr_t>(shared) - reinterpret_cast<std::uintptr_t>(shared_memory());
  if (offset % Bytes != 0 ||
      (available > 0 && reinterpret_cast<std::uintptr_t>(global) % Bytes != 0))
    simt::fail("asynchronous copy: an address is not a multiple of the copy's size");
  simt::self().copies.push_back({shared, global, available, Bytes, simt::self().committed});
}

inline void commit_copies() { ++simt::self().committed; }

template <int Pending> void wait_copies() {
  simt::Fibre &fibre = simt::self();
  std::vector<simt::Copy> left;
  for (const simt::Copy &copy : fibre.copies) {
    if (copy.group >= fibre.committed - Pending) {
      left.push_back(copy);
      continue;
    }
    std::memset(copy.to, 0, std::size_t(copy.size));
    std::memcpy(copy.to, copy.from, std::size_t(copy.available));
  }
  fibre.copies.swap(left);
}

template <class Value> Value shuffle_xor(Value value, int mask, int place = __builtin_LINE()) {
  struct Arguments {
    Value value, result;
    int mask;
  } arguments{value, value, mask};
  simt::meet_warp(arguments, place, [](Arguments *(&lanes)[32]) {
    for (int lane = 0; lane < 32; ++lane)
      lanes[lane]->result = lanes[lane ^ lanes[lane]->mask]->value;
  });
  return arguments.result;
}

inline void atomic_or(int *word, int bits) { *word |= bits; }
inline void atomic_min(int *word, int value) { *word = value < *word ? value : *word; }
inline int atomic_add(int *word, int value) {
  const int before = *word;
  *word += value;
  return before;
}

} // namespace lmc

using std::fabs;
using std::fma;
using std::fmax;
