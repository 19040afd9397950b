// The shim's library, seen from Python: launches any of the kernels by name, with arguments as cuLaunchKernel takes
// them. Include after the kernels; the list of them follows in a generated file as GNS_KERNEL(name) lines between
// braces.
#pragma once

#include <utility>

namespace shim {

inline void** launch_arguments;

template <class... A, size_t... I>
void call_with(void (*kernel)(A...), std::index_sequence<I...>) {
  kernel(*static_cast<A*>(launch_arguments[I])...);
}
template <class... A> void call(void (*kernel)(A...)) { call_with(kernel, std::index_sequence_for<A...>()); }

// A letter an argument: capitals are arrays.
template <class A> constexpr char letter();
template <> constexpr char letter<int>() { return 'i'; }
template <> constexpr char letter<float>() { return 'f'; }
template <> constexpr char letter<int*>() { return 'I'; }
template <> constexpr char letter<int2*>() { return 'I'; }
template <> constexpr char letter<float*>() { return 'F'; }
template <> constexpr char letter<float4*>() { return 'F'; }
template <> constexpr char letter<short*>() { return 'S'; }
template <> constexpr char letter<long long*>() { return 'L'; }
template <> constexpr char letter<unsigned char*>() { return 'B'; }

template <class A> struct Plain { using type = A; };
template <class A> struct Plain<const A*> { using type = A*; };
template <class... A> std::string signature(void (*)(A...)) { return {letter<typename Plain<A>::type>()...}; }

struct Kernel {
  const char* name;
  void (*body)();
  std::string signature;
};

}  // namespace shim

#define GNS_KERNEL(name) {#name, [] { shim::call(name); }, shim::signature(name)},
#define GNS_KERNELS(...)                                                                                              \
  static const shim::Kernel kernels[] = {__VA_ARGS__};                                                                \
  extern "C" const char* shim_signature(int kernel) { return kernels[kernel].signature.c_str(); }                     \
  /* Returns null, or what went wrong. */                                                                             \
  extern "C" const char* shim_launch(int kernel, const unsigned* grid, const unsigned* block, void** arguments,       \
                                     int backwards) {                                                                 \
    shim::launch_arguments = arguments;                                                                               \
    shim::run_grid(kernels[kernel].body, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, backwards != 0); \
    return shim::error.empty() ? nullptr : shim::error.c_str();                                                       \
  }
