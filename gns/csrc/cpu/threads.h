// The renderer's own threads. Not OpenMP: torch brings an OpenMP runtime of its own, and two of them in one process spin
// against each other.
#pragma once

#include <type_traits>

namespace gns {

// More than any machine has cores; each takes 8 MB of address space for its stack, and a run rarely has more tasks.
// MOST_THREADS in gns/arguments/shared.py is the same number.
constexpr int kMostThreads = 1024;

// Threads that run_tasks() uses, the calling one included: fewer where the system does not give as many.
int thread_count();
void set_thread_count(int count);  // 0 or less: the cores that this process may run on; at most kMostThreads

using Task = void (*)(void* context, int task);

// Calls task(context, 0 .. tasks − 1), each once, in any order, on all threads; returns when all are done. A call from
// inside a task, or while another thread is inside, runs on the calling thread alone. An exception of a task, the first
// where several throw, is handed to the caller when no task runs any more; the others may or may not have run.
void run_tasks(int tasks, Task task, void* context);

// parallel_for(n, [&](int i) { ... })
template <class Body> inline void parallel_for(int tasks, Body&& body) {
  using Callable = std::remove_reference_t<Body>;
  run_tasks(tasks, [](void* context, int task) { (*static_cast<Callable*>(context))(task); }, &body);
}

}  // namespace gns
