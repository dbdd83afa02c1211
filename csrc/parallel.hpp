#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lmc {

// Calls body(begin, end) over [0, count) in pieces of `grain`, on up to `threads` threads of which
// the caller is one. Joins before it returns and rethrows the first exception of any worker. `wait`
// is called every few milliseconds while the caller has no more to do.
template <class Body, class Wait>
void parallel_for(std::int64_t count, std::int64_t grain, int threads, const Body &body,
                  const Wait &wait) {
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t pieces = (count + grain - 1) / grain;
  const auto workers = static_cast<int>(std::min<std::int64_t>(threads, pieces));
  if (workers <= 1) {
    if (count > 0) {
      body(std::int64_t{0}, count);
    }
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t running = 0;
  const auto work = [&] {
    try {
      for (std::int64_t piece = next++; piece < pieces; piece = next++) {
        body(piece * grain, std::min(count, (piece + 1) * grain));
      }
    } catch (...) {
      next = pieces;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) {
        error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(static_cast<std::size_t>(workers - 1));
  try {
    for (int i = 1; i < workers; ++i) {
      const std::lock_guard<std::mutex> lock(mutex);
      pool.emplace_back([&] {
        work();
        const std::lock_guard<std::mutex> done(mutex);
        --running;
        ended.notify_one();
      });
      ++running;
    }
  } catch (const std::system_error &) {
    // No more threads to be had: those that started, and this one, do all the work.
  }
  work();
  {
    std::unique_lock<std::mutex> lock(mutex);
    while (!ended.wait_for(lock, std::chrono::milliseconds(5), [&] { return running == 0; })) {
      lock.unlock();
      wait();
      lock.lock();
    }
  }
  for (std::thread &thread : pool) {
    thread.join();
  }
  if (error) {
    std::rethrow_exception(error);
  }
}

template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, int threads, const Body &body) {
  parallel_for(count, grain, threads, body, [] {});
}

} // namespace lmc
