#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace gns {
namespace {

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a thread looks for work before it sleeps: about the gap between two stages of one iteration (tens of µs).
// Longer would burn a core that somebody else could use.
constexpr int kSpins = 1000;

// What a thread keeps to itself, here and in the library that throws exceptions, is allocated when it is first touched,
// and the C library ends the process where there is no memory for it. A new thread touches both at once: the first thing
// that it needs them for may be to say that memory has run out.
thread_local volatile int touched = 0;
void touch_thread_locals() { touched = std::uncaught_exceptions(); }

// The tasks of one run() after the other. Nobody waits for a thread that has no task in hand: one that the system has
// put aside, or not woken yet, is not missed unless it holds a task.
class Pool {
 public:
  // Where the system has no more threads to give, or no memory for their stacks, those that are there do the work: the
  // caller's alone if need be. Results do not depend on how many there are.
  explicit Pool(int threads) {
    workers_.reserve(threads - 1);
    try {
      while (static_cast<int>(workers_.size()) < threads - 1) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
  }
  ~Pool() {
    stop_.store(true);
    announce();
    for (auto& worker : workers_) worker.join();
  }

  void run(int tasks, Task task, void* context) {
    task_ = task;
    context_ = context;
    tasks_ = tasks;
    unfinished_.store(tasks, std::memory_order_relaxed);
    left_.store(static_cast<uint32_t>(tasks), std::memory_order_release);
    announce();
    take();
    for (int spin = 0, unfinished; (unfinished = unfinished_.load(std::memory_order_acquire)) != 0; ++spin) {
      if (spin < kSpins) {
        relax();
      } else {
        unfinished_.wait(unfinished, std::memory_order_acquire);
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void announce() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  // A task that is left can only be taken by lowering `left_` from what it is to one less, never below zero. So whoever
  // takes one keeps run() from returning until it is done, and may read what run() has set; whoever is late takes none,
  // or one of the next run().
  void take() {
    uint32_t left = left_.load(std::memory_order_acquire);
    while (left != 0) {
      if (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      // No exception may leave this loop: a worker has no caller to hand it to, and the thread that called run() must
      // not leave while others work on what lies on its stack.
      try {
        task_(context_, tasks_ - static_cast<int>(left));
      } catch (...) {
        std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
      left = left_.load(std::memory_order_acquire);
    }
  }

  void work() {
    touch_thread_locals();
    uint32_t seen = 0;
    for (;;) {
      uint32_t now;
      for (int spin = 0; (now = round_.load(std::memory_order_acquire)) == seen; ++spin) {
        if (spin < kSpins) {
          relax();
        } else {
          round_.wait(seen, std::memory_order_acquire);
        }
      }
      seen = now;
      if (stop_.load()) return;
      take();
    }
  }

  std::vector<std::thread> workers_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;  // the first of a run; run() hands it to its caller
  // On cache lines of their own: every thread hammers left_.
  alignas(64) std::atomic<uint32_t> left_{0};
  alignas(64) std::atomic<int> unfinished_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  std::atomic<bool> stop_{false};
};

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned cores = std::thread::hardware_concurrency();
  return cores ? static_cast<int>(cores) : 1;
}

std::mutex mutex;  // one run() at a time; guards the two below
std::unique_ptr<Pool> pool;
int threads = 0;  // 0: not decided yet

#if !defined(_WIN32)
// A forked child (a data loader's worker, say) has none of the parent's threads: it starts its own when it needs them.
void forget_pool_in_child() {
  (void)pool.release();
  new (&mutex) std::mutex;
}
const int at_fork = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
#endif

}  // namespace

int thread_count() {
  std::lock_guard lock(mutex);
  if (threads == 0) threads = available_cores();
  return threads;
}

void set_thread_count(int count) {
  std::lock_guard lock(mutex);
  pool.reset();
  threads = count > 0 ? std::min(count, kMostThreads) : available_cores();
}

void run_tasks(int tasks, Task task, void* context) {
  std::unique_lock lock(mutex, std::try_to_lock);
  if (lock.owns_lock()) {
    if (threads == 0) threads = available_cores();
    if (threads > 1 && tasks > 1) {
      if (!pool) pool = std::make_unique<Pool>(threads);
      pool->run(tasks, task, context);
      return;
    }
    lock.unlock();
  }
  for (int i = 0; i < tasks; ++i) task(context, i);
}

}  // namespace gns
