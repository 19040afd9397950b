// The renderer's own threads. Not OpenMP: torch brings an OpenMP runtime of its own, and two of them in one process spin
// against each other.
#pragma once

#include <type_traits>

namespace gns {

// Threads that run() uses, the calling one included.
int thread_count();
void set_thread_count(int count);

using Task = void (*)(void* context, int task);

// Calls task(context, 0 .. tasks − 1), each once, in any order, on all threads; returns when all are done. A call from
// inside a task, or while another thread is inside, runs on the calling thread alone.
void run_tasks(int tasks, Task task, void* context);

// parallel_for(n, [&](int i) { ... })
template <class Body> inline void parallel_for(int tasks, Body&& body) {
  using Callable = std::remove_reference_t<Body>;
  run_tasks(tasks, [](void* context, int task) { (*static_cast<Callable*>(context))(task); }, &body);
}

}  // namespace gns
