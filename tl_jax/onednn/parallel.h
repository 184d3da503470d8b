// Work and memory that convolutions share with the rest of the process: XLA's threads, lent blocks.

#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "xla/ffi/api/ffi.h"

namespace tl_jax {

namespace ffi = xla::ffi;

// While it lives, oneDNN computes in the calling thread alone.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// Memory lent for one call. It is kept for the next ones, for fresh memory costs page faults: there
// are as many blocks as were ever in use at once, each as large as its largest use.
class Lease {
 public:
  explicit Lease(size_t size) {
    {
      std::lock_guard<std::mutex> lock(Mutex());
      auto& idle = Idle();
      auto block = idle.lower_bound(size);  // The smallest that suffices, or else the largest.
      if (block == idle.end() && !idle.empty()) --block;
      if (block != idle.end()) {
        size_ = block->first;
        data_ = block->second;
        idle.erase(block);
      }
    }
    if (size_ >= size) return;
    std::free(data_);
    size_ = (size + 4095) / 4096 * 4096;
    data_ = std::aligned_alloc(64, size_);
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Lease() {
    std::lock_guard<std::mutex> lock(Mutex());
    Idle().emplace(size_, data_);
  }
  Lease(const Lease&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  static std::mutex& Mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
  }
  static std::multimap<size_t, void*>& Idle() {
    static auto* idle = new std::multimap<size_t, void*>;
    return *idle;
  }
  size_t size_ = 0;
  void* data_ = nullptr;
};

// Calls run(0) ... run(n - 1) on XLA's threads and returns when all are done. The caller takes
// part, and waits only for calls that a thread has begun: it never waits for one that waits too.
template <typename Run>
void Parallel(ffi::ThreadPool& pool, int64_t n, const Run& run) {
  struct State {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable changed;
    int64_t done = 0;
    std::exception_ptr failure;
  };
  auto state = std::make_shared<State>();
  // A thread that comes late finds nothing to do; it must not touch `run`, which is gone by then.
  auto work = [state, n, &run] {
    for (int64_t i = state->next++; i < n; i = state->next++) {
      std::exception_ptr failure;
      try {
        OneThread one_thread;
        run(i);
      } catch (...) {
        failure = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(state->mutex);
      if (failure) state->failure = failure;
      if (++state->done == n) state->changed.notify_all();
    }
  };
  for (int64_t i = 1; i < std::min(n, pool.num_threads()); ++i)
    pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->changed.wait(lock, [&] { return state->done == n; });
  if (state->failure) std::rethrow_exception(state->failure);
}

}  // namespace tl_jax
