// Runs CUDA kernels on the CPU: every thread of a block a fiber, the blocks one after the other. Include before the
// kernels.
//
// It stops with a message where a GPU would do anything at all: threads of a warp at different collectives, threads of
// a block at different barriers, a barrier or collective that some thread has already left for good, waiting for ever.
// Shared memory holds NaN (bytes 0xFF) at the start of every block. What runs first is a choice of the caller
// (`backwards`), so that a missing barrier shows as a difference.
// What it cannot see: the order of memory between warps, and the rounding of approximate instructions.
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <string>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
// All shared variables lie in one section, whose ends the linker names.
#define __shared__ static __attribute__((section("gns_shared")))
extern "C" char __start_gns_shared[], __stop_gns_shared[];

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr int kLanes = 32, kMostThreads = 1024;
constexpr size_t kStack = 64 << 10;

// What threads can meet at.
enum class Meeting { none, barrier, barrier_and, ballot, all, any, shuffle, warp_barrier };
inline const char* name(Meeting m) {
  constexpr const char* names[] = {"nothing", "__syncthreads", "__syncthreads_and", "__ballot_sync",
                                   "__all_sync", "__any_sync", "a shuffle", "__syncwarp"};
  return names[int(m)];
}

// Threads that have come to one meeting, and what they brought. Two sets of values in turn: some may still read the
// last.
struct Group {
  int members = 0, left = 0, arrived = 0;
  unsigned round = 0;
  Meeting meeting = Meeting::none;
  unsigned line = 0;
  const char* file = "";
  uint32_t values[2][kLanes] = {};
  uint32_t votes[2] = {};  // lanes that voted yes, or their number
};

struct Fiber {
  bool finished;
  Group* waits_for;
  unsigned waits_in;  // round
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  char* stack;
};

inline Fiber fibers[kMostThreads], main_fiber;
inline Group block_group, warp_groups[kMostThreads / kLanes];
inline int current, thread_count;
inline void (*thread_body)();
inline std::string error;

#if defined(__x86_64__)
// Saves the registers that a function must keep, exchanges stacks, and restores them from there.
extern "C" void shim_switch(void** save, void* load);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

inline void switch_to(Fiber& from, Fiber& to) {
#if defined(__x86_64__)
  shim_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
}

inline void yield() { switch_to(fibers[current], main_fiber); }

[[noreturn]] inline void fail(const std::string& message) {
  error = message + " (block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + "," +
          std::to_string(blockIdx.z) + ", thread " + std::to_string(current) + ")";
  yield();
  std::abort();
}

inline void leave(Group& group) {
  ++group.left;
  if (group.arrived) fail(std::string("a thread ends while others wait at ") + name(group.meeting));
}

inline void thread_entry() {
  thread_body();
  leave(block_group);
  leave(warp_groups[current / kLanes]);
  fibers[current].finished = true;
  yield();
  std::abort();
}

// Waits until all members of the group have come; returns which of the two sets of values holds theirs.
inline unsigned meet(Group& group, Meeting meeting, const std::source_location& where, int seat, uint32_t value,
                     bool vote) {
  const unsigned set = group.round & 1;
  if (group.left) fail(std::string(name(meeting)) + " after some thread has ended");
  if (!group.arrived) {
    group.meeting = meeting;
    group.line = where.line();
    group.file = where.file_name();
    group.votes[set] = 0;
  } else if (group.meeting != meeting || group.line != where.line() || std::strcmp(group.file, where.file_name())) {
    fail(std::string("threads at different places: ") + name(group.meeting) + " in line " +
         std::to_string(group.line) + ", " + name(meeting) + " in line " + std::to_string(where.line()));
  }
  if (seat < kLanes) group.values[set][seat] = value;
  if (vote) group.votes[set] += meeting == Meeting::barrier_and ? 1 : 1u << seat;
  if (++group.arrived == group.members) {
    group.arrived = 0;
    ++group.round;
  } else {
    fibers[current].waits_for = &group;
    fibers[current].waits_in = group.round;
    yield();
  }
  return set;
}

inline unsigned meet_warp(Meeting meeting, const std::source_location& where, unsigned mask, uint32_t value, bool vote,
                          Group*& group) {
  if (mask != 0xFFFFFFFFu) fail("only whole warps may meet");
  group = &warp_groups[current / kLanes];
  return meet(*group, meeting, where, current % kLanes, value, vote);
}

inline bool runnable(const Fiber& fiber) {
  return !fiber.finished && (!fiber.waits_for || fiber.waits_for->round != fiber.waits_in);
}

inline void start_fiber(Fiber& fiber) {
  fiber.finished = false;
  fiber.waits_for = nullptr;
  if (!fiber.stack) fiber.stack = static_cast<char*>(std::aligned_alloc(64, kStack));
#if defined(__x86_64__)
  // As shim_switch leaves a stack: six registers, then where to return to. A function starts 8 beyond a multiple of 16.
  void** top = reinterpret_cast<void**>(fiber.stack + kStack) - 2;
  top[0] = reinterpret_cast<void*>(&thread_entry);
  top[1] = nullptr;
  fiber.stack_pointer = top - 6;
  std::memset(top - 6, 0, 6 * sizeof(void*));
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, thread_entry, 0);
#endif
}

// Runs every thread of a warp until none can go on; returns whether any could.
inline bool run_warp(int warp, bool backwards) {
  bool any = false;
  for (bool progress = true; progress;) {
    progress = false;
    for (int step = 0; step < kLanes; ++step) {
      const int thread = warp * kLanes + (backwards ? kLanes - 1 - step : step);
      if (!runnable(fibers[thread])) continue;
      any = progress = true;
      current = thread;
      const unsigned t = unsigned(thread);
      threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
      fibers[thread].waits_for = nullptr;
      switch_to(main_fiber, fibers[thread]);
      if (!error.empty()) return false;
    }
  }
  return any;
}

// One block to its end; `backwards` takes warps and lanes from the last.
inline void run_block(bool backwards) {
  const int warps = thread_count / kLanes;
  std::memset(__start_gns_shared, 0xFF, size_t(__stop_gns_shared - __start_gns_shared));
  block_group = {};
  block_group.members = thread_count;
  for (int warp = 0; warp < warps; ++warp) {
    warp_groups[warp] = {};
    warp_groups[warp].members = kLanes;
  }
  for (int thread = 0; thread < thread_count; ++thread) start_fiber(fibers[thread]);
  for (bool progress = true; progress && error.empty();) {
    progress = false;
    for (int step = 0; step < warps && error.empty(); ++step)
      progress |= run_warp(backwards ? warps - 1 - step : step, backwards);
  }
  for (int thread = 0; thread < thread_count && error.empty(); ++thread)
    if (!fibers[thread].finished)
      error = std::string("threads wait for ever at ") + name(fibers[thread].waits_for->meeting);
}

inline void run_grid(void (*body)(), dim3 grid, dim3 block, bool backwards) {
  error.clear();
  thread_body = body;
  gridDim = grid;
  blockDim = block;
  thread_count = int(block.x * block.y * block.z);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = backwards ? dim3{grid.x - 1 - x, grid.y - 1 - y, grid.z - 1 - z} : dim3{x, y, z};
        run_block(backwards);
        if (!error.empty()) return;
      }
}

}  // namespace shim

#define GNS_HERE const std::source_location &where = std::source_location::current()

inline void __syncthreads(GNS_HERE) {
  shim::meet(shim::block_group, shim::Meeting::barrier, where, shim::kLanes, 0, false);
}
inline int __syncthreads_and(int predicate, GNS_HERE) {
  const unsigned set =
      shim::meet(shim::block_group, shim::Meeting::barrier_and, where, shim::kLanes, 0, predicate != 0);
  return shim::block_group.votes[set] == unsigned(shim::thread_count);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, GNS_HERE) {
  shim::Group* group;
  shim::meet_warp(shim::Meeting::warp_barrier, where, mask, 0, false, group);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, GNS_HERE) {
  shim::Group* group;
  const unsigned set = shim::meet_warp(shim::Meeting::ballot, where, mask, 0, predicate != 0, group);
  return group->votes[set];
}
inline int __all_sync(unsigned mask, int predicate, GNS_HERE) {
  shim::Group* group;
  const unsigned set = shim::meet_warp(shim::Meeting::all, where, mask, 0, predicate != 0, group);
  return group->votes[set] == 0xFFFFFFFFu;
}
inline int __any_sync(unsigned mask, int predicate, GNS_HERE) {
  shim::Group* group;
  const unsigned set = shim::meet_warp(shim::Meeting::any, where, mask, 0, predicate != 0, group);
  return group->votes[set] != 0;
}

template <class T> inline T shim_shuffle(unsigned mask, T value, int source, const std::source_location& where) {
  static_assert(sizeof(T) == 4);
  shim::Group* group;
  const unsigned set =
      shim::meet_warp(shim::Meeting::shuffle, where, mask, std::bit_cast<uint32_t>(value), false, group);
  return std::bit_cast<T>(group->values[set][source]);
}
template <class T> inline T __shfl_sync(unsigned mask, T value, int source, GNS_HERE) {
  return shim_shuffle(mask, value, source & 31, where);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int distance, GNS_HERE) {
  return shim_shuffle(mask, value, (shim::current % shim::kLanes) ^ distance, where);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, int distance, GNS_HERE) {
  const int lane = shim::current % shim::kLanes;
  return shim_shuffle(mask, value, lane < distance ? lane : lane - distance, where);
}
