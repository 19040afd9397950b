#include "threads.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
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

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    stop_.store(true);
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void run(int tasks, Task task, void* context) {
    task_ = task;
    context_ = context;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    take();
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < kSpins) {
        relax();
      } else {
        const int busy = busy_.load(std::memory_order_acquire);
        if (busy != 0) busy_.wait(busy, std::memory_order_acquire);
      }
    }
  }

 private:
  void take() {
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) task_(context_, i);
  }

  void work() {
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
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;
  // On cache lines of their own: every thread hammers next_.
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> busy_{0};
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
  threads = count > 0 ? count : available_cores();
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
