// What the instructions of PTX do, each a function, for the programs that ptx.py writes: they run in the fibers of
// shim.h, which sees to it that whole warps meet at collectives and whole blocks at barriers.
//
// Stops with a message where a GPU would end the program or do anything at all: an address that is not a multiple of
// the access's size; shared memory outside of the kernel's variables; global memory outside of the arrays that the
// launch was given. Approximate instructions give the true result, or one that is off by up to `noise` times their
// documented error.
#pragma once

#include <cfloat>
#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>
#include <vector>

#include "shim.h"

using pred = bool;
using u8 = uint8_t;
using s8 = int8_t;
using b8 = uint8_t;
using u16 = uint16_t;
using s16 = int16_t;
using b16 = uint16_t;
using u32 = uint32_t;
using s32 = int32_t;
using b32 = uint32_t;
using u64 = uint64_t;
using s64 = int64_t;
using b64 = uint64_t;
using f32 = float;
using f64 = double;

// Registers

// A register read as T: its bits, or the lower ones of them.
template <class T, class R> T get(R value) {
  if constexpr (sizeof(T) == sizeof(R)) return std::bit_cast<T>(value);
  else return static_cast<T>(value);
}
// A value of type T into a register, which may be wider: then extended by its sign, if T has one.
template <class T, class R> void put(R& target, T value) {
  if constexpr (sizeof(T) == sizeof(R)) target = std::bit_cast<R>(value);
  else target = static_cast<R>(value);
}

// Memory

struct Span { u32 begin, end; };
struct Array { u64 begin, end; };

namespace {
void** launch_arguments;
const std::vector<Span>* shared_spans;  // of the running kernel
std::vector<Array> arrays;              // of the running launch; empty: all memory is allowed
double noise = 0;
}  // namespace

constexpr u32 kMostShared = 100 << 10;
[[gnu::used]] alignas(128) __shared__ unsigned char ptx_shared[kMostShared];

inline std::string bytes(size_t size) { return " of " + std::to_string(size) + " bytes"; }

inline void* shared_memory(u32 address, u32 size) {
  if (address % size) shim::fail("misaligned access" + bytes(size) + " to shared memory");
  for (const Span& span : *shared_spans)
    if (address >= span.begin && address + size <= span.end) return ptx_shared + address;
  shim::fail("access" + bytes(size) + " outside of all shared variables, at " + std::to_string(address));
}

inline void* global_memory(u64 address, u32 size) {
  if (address % size) shim::fail("misaligned access" + bytes(size) + " to global memory");
  static size_t last = 0;  // most accesses go where the one before went
  const auto inside = [&](const Array& array) { return address >= array.begin && address + size <= array.end; };
  if (arrays.empty() || (last < arrays.size() && inside(arrays[last]))) return reinterpret_cast<void*>(address);
  for (last = 0; last < arrays.size(); ++last)
    if (inside(arrays[last])) return reinterpret_cast<void*>(address);
  shim::fail("access" + bytes(size) + " outside of all arrays that were given");
}

inline const void* constant_memory(u64 address, u32 size) {
  if (address % size) shim::fail("misaligned access" + bytes(size) + " to constant memory");
  return reinterpret_cast<const void*>(address);
}
inline u64 address_of(const void* variable) { return reinterpret_cast<u64>(variable); }

template <class T> T parameter(int number) {
  T value;
  std::memcpy(&value, launch_arguments[number], sizeof(T));
  return value;
}

// Arithmetic; integers wrap round

template <class T> using Bits = std::make_unsigned_t<T>;

#define PTX_ARITHMETIC(NAME, SYMBOL)                                                              \
  template <class T> T NAME(T a, T b) {                                                           \
    if constexpr (std::floating_point<T>) return a SYMBOL b;                                      \
    else return T(Bits<T>(a) SYMBOL Bits<T>(b));                                                  \
  }
PTX_ARITHMETIC(add_, +)
PTX_ARITHMETIC(sub_, -)
template <class T> T mul_(T a, T b) { return a * b; }
template <class T> T mul_lo(T a, T b) { return T(u64(a) * u64(b)); }
template <class T> auto mul_wide(T a, T b) {
  using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::signed_integral<T>, s32, u32>,
                                  std::conditional_t<std::signed_integral<T>, s64, u64>>;
  return Wide(Wide(a) * Wide(b));
}
template <class T> T mul_hi(T a, T b) {
  static_assert(sizeof(T) == 4);
  return T(mul_wide<T>(a, b) >> 32);
}
template <class T> T div_(T a, T b) {
  if constexpr (std::integral<T>)
    if (b == 0) shim::fail("an integer divided by zero");
  return a / b;
}
template <class T> T rem_(T a, T b) {
  if (b == 0) shim::fail("an integer divided by zero");
  return a % b;
}
template <class T> T fma_(T a, T b, T c) { return std::fma(a, b, c); }
template <class T> T neg_(T a) {
  if constexpr (std::floating_point<T>) return -a;
  else return T(-Bits<T>(a));
}
template <class T> T abs_(T a) {
  if constexpr (std::floating_point<T>) return std::fabs(a);
  else return a < 0 ? neg_<T>(a) : a;
}
// Of a number and NaN it is the number.
template <class T> T min_(T a, T b) {
  if constexpr (std::floating_point<T>) return std::fmin(a, b);
  else return a < b ? a : b;
}
template <class T> T max_(T a, T b) {
  if constexpr (std::floating_point<T>) return std::fmax(a, b);
  else return a > b ? a : b;
}
template <class T> T mov_(T a) { return a; }
template <class T> T and_(T a, T b) { return a & b; }
template <class T> T or_(T a, T b) { return a | b; }
template <class T> T xor_(T a, T b) { return a ^ b; }
template <class T> T not_(T a) {
  if constexpr (std::same_as<T, pred>) return !a;
  else return T(~a);
}
template <class T> T shl_(T a, u32 by) { return by < 8 * sizeof(T) ? T(Bits<T>(a) << by) : T(0); }
template <class T> T shr_(T a, u32 by) {
  constexpr u32 kMost = 8 * sizeof(T) - 1;
  if (by <= kMost) return T(a >> by);
  return std::signed_integral<T> && a < 0 ? T(-1) : T(0);
}
template <class T> u32 popc_(T a) { return u32(std::popcount(a)); }
template <class T> u32 clz_(T a) { return u32(std::countl_zero(a)); }
template <class T> T brev_(T a) {
  T reversed = 0;
  for (u32 bit = 0; bit < 8 * sizeof(T); ++bit) reversed |= (a >> bit & 1) << (8 * sizeof(T) - 1 - bit);
  return reversed;
}
template <class T> u32 bfind_shiftamt(T a) { return a ? u32(std::countl_zero(a)) : 0xFFFFFFFFu; }

// Comparisons; those in u are also true where one is not a number

template <class T> bool eq_(T a, T b) { return a == b; }
template <class T> bool lt_(T a, T b) { return a < b; }
template <class T> bool le_(T a, T b) { return a <= b; }
template <class T> bool gt_(T a, T b) { return a > b; }
template <class T> bool ge_(T a, T b) { return a >= b; }
template <class T> bool ne_(T a, T b) {
  if constexpr (std::floating_point<T>) return a < b || a > b;
  else return a != b;
}
template <class T> bool equ_(T a, T b) { return !ne_<T>(a, b); }
template <class T> bool neu_(T a, T b) { return a != b; }
template <class T> bool ltu_(T a, T b) { return !(a >= b); }
template <class T> bool leu_(T a, T b) { return !(a > b); }
template <class T> bool gtu_(T a, T b) { return !(a <= b); }
template <class T> bool geu_(T a, T b) { return !(a < b); }
template <class T> bool num_(T a, T b) { return a == a && b == b; }
template <class T> bool nan_(T a, T b) { return !num_<T>(a, b); }

// Conversions

template <class To, class From> To cvt_(From a) { return static_cast<To>(a); }
template <class To, class From> To cvt_rn(From a) { return static_cast<To>(a); }
// A rounded number as an integer: the nearest that there is, 0 for what is no number.
template <class To, class From> To whole(From a) {
  if constexpr (std::floating_point<To>) return To(a);
  else if (a != a) return 0;
  else if (a >= std::ldexp(From(1), std::numeric_limits<To>::digits)) return std::numeric_limits<To>::max();
  else if (a <= From(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  else return To(a);
}
template <class To, class From> To cvt_rni(From a) { return whole<To>(std::nearbyint(a)); }
template <class To, class From> To cvt_rzi(From a) { return whole<To>(std::trunc(a)); }
template <class To, class From> To cvt_rmi(From a) { return whole<To>(std::floor(a)); }
template <class To, class From> To cvt_rpi(From a) { return whole<To>(std::ceil(a)); }

// Roots, quotients and powers: exact, and approximate with the errors that NVIDIA's description of PTX states

inline f32 flushed(f32 a) { return std::fabs(a) < FLT_MIN ? std::copysign(0.0f, a) : a; }
// The same number in [-1, 1] for the same argument.
inline double scattered(f32 a) {
  u32 hash = std::bit_cast<u32>(a) * 2654435761u;
  hash ^= hash >> 15;
  hash *= 2246822519u;
  hash ^= hash >> 13;
  return double(s32(hash)) / 2147483648.0;
}
inline f32 off(double exact, f32 argument, double error) {
  return f32(exact * (1 + noise * error * scattered(argument)));
}

template <class T> T sqrt_(T a) { return std::sqrt(a); }
template <class T> T rcp_(T a) { return 1 / a; }
template <class T> f32 ex2__approx(T a) { return off(std::exp2(double(a)), a, 0x1p-22); }
template <class T> f32 ex2__approx_ftz(T a) { return flushed(ex2__approx(flushed(a))); }
template <class T> f32 rcp__approx_ftz(T a) { return flushed(off(1 / double(flushed(a)), a, 0x1p-23)); }

// Exchange within a warp

inline void require_whole_warp(u32 clamp, u32 whole) {
  if (clamp != whole) shim::fail("a shuffle within a part of a warp");
}
inline u32 shuffle_bfly(u32 value, u32 by, u32 clamp, u32 mask, GNS_HERE) {
  require_whole_warp(clamp, 31);
  return __shfl_xor_sync(mask, value, int(by), where);
}
inline u32 shuffle_idx(u32 value, u32 source, u32 clamp, u32 mask, GNS_HERE) {
  require_whole_warp(clamp, 31);
  return __shfl_sync(mask, value, int(source), where);
}
inline u32 shuffle_up(u32 value, u32 by, u32 clamp, u32 mask, GNS_HERE) {
  require_whole_warp(clamp, 0);
  return __shfl_up_sync(mask, value, int(by), where);
}
inline bool shuffle_bfly_is_inside(u32) { return true; }
inline bool shuffle_idx_is_inside(u32) { return true; }
inline bool shuffle_up_is_inside(u32 by) { return u32(shim::current % shim::kLanes) >= by; }

// Seen from Python

struct Kernel {
  const char* name;
  void (*body)();
};

#define PTX_KERNELS(...)                                                                                         \
  static const Kernel kernels[] = {__VA_ARGS__};                                                                 \
  extern "C" void ptx_allow(const u64* begin, const u64* end, int count, double noise_factor) {                  \
    arrays.clear();                                                                                              \
    for (int k = 0; k < count; ++k) arrays.push_back({begin[k], end[k]});                                        \
    noise = noise_factor;                                                                                        \
  }                                                                                                              \
  extern "C" int ptx_number(const char* name) {                                                                  \
    for (int k = 0; k < int(std::size(kernels)); ++k)                                                            \
      if (!std::strcmp(kernels[k].name, name)) return k;                                                         \
    return -1;                                                                                                   \
  }                                                                                                              \
  extern "C" const char* shim_launch(int kernel, const unsigned* grid, const unsigned* block, void** arguments,  \
                                     int backwards) {                                                            \
    launch_arguments = arguments;                                                                                \
    shim::run_grid(kernels[kernel].body, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},            \
                   backwards != 0);                                                                              \
    return shim::error.empty() ? nullptr : shim::error.c_str();                                                  \
  }
