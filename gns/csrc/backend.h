// What the shared formulas (splat_math.h, loss_math.h, adam_math.h) ask of a backend. `R` is whatever it computes with:
// a register of lanes on the CPU (cpu/simd.h), a float in a CUDA thread (cuda/device.cuh).
//
// A backend supplies +, −, ×, /, fma(a,b,c) = ab+c, fnma(a,b,c) = c−ab, min, max, abs, negative_abs (−|x|), sqrt, floor,
// ceil, exp2 and log2; fast_exp2 and reciprocal, which may err in the last bits; comparisons, & of the masks that they
// return, select(mask, if_true, if_false) and zero_unless(mask, x). min(a, b) and max(a, b) return b where either is NaN:
// with the constant first a NaN passes through, and fails the renderer's tests of what is drawn.
#pragma once

#if defined(__CUDACC__)
#define GNS_MATH __host__ __device__ inline
#define GNS_UNROLL _Pragma("unroll")
#else
#define GNS_MATH inline __attribute__((always_inline))
#define GNS_UNROLL
#endif

namespace gns {

// The number in each lane of an R: float or double.
template <class R> struct ScalarOf { using type = typename R::Scalar; };
template <> struct ScalarOf<float> { using type = float; };
template <> struct ScalarOf<double> { using type = double; };
template <class R> using Scalar = typename ScalarOf<R>::type;

// What a comparison of two R returns: a truth value a lane.
template <class R> using MaskOf = decltype(R() < R());

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;

}  // namespace gns
