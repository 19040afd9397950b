// Vec<T>: one register of T, and Mask<T>: one truth value a lane. The kernels are written once against these; every
// instruction set gets its own build of them, in a namespace of its own (GNS_ISA, set by CMake).
//
// Multiplications and additions are never contracted by the compiler (-ffp-contract=off): where a fused multiply-add is
// meant, fma() is written. The forward and the backward pass therefore see the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#define GNS_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define GNS_AVX2 1
#include <immintrin.h>
#endif

#define GNS_INLINE inline __attribute__((always_inline))
#define GNS_INLINE_LAMBDA __attribute__((always_inline))  // between a lambda's parameters and its body

namespace gns::GNS_ISA {

template <class T> struct Vec;
template <class T> struct Mask;

// ---------------------------------------------------------------------------------------------------------------------
#if defined(GNS_AVX512)

template <> struct Mask<float> { __mmask16 m; };
template <> struct Mask<double> { __mmask8 m; };

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int width = 16;
  __m512 v;
  Vec() = default;
  GNS_INLINE Vec(__m512 x) : v(x) {}
  GNS_INLINE Vec(float x) : v(_mm512_set1_ps(x)) {}
  static GNS_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  GNS_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
};
template <> struct Vec<double> {
  using Scalar = double;
  static constexpr int width = 8;
  __m512d v;
  Vec() = default;
  GNS_INLINE Vec(__m512d x) : v(x) {}
  GNS_INLINE Vec(double x) : v(_mm512_set1_pd(x)) {}
  static GNS_INLINE Vec load(const double* p) { return _mm512_loadu_pd(p); }
  GNS_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
};

#define GNS_OPS(T, S)                                                                                                 \
  GNS_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return _mm512_add_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return _mm512_sub_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return _mm512_mul_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return _mm512_div_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return _mm512_fmadd_##S(a.v, b.v, c.v); }                      \
  GNS_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return _mm512_fnmadd_##S(a.v, b.v, c.v); }                    \
  GNS_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return _mm512_min_##S(a.v, b.v); }                                       \
  GNS_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return _mm512_max_##S(a.v, b.v); }                                       \
  GNS_INLINE Vec<T> abs(Vec<T> a) { return _mm512_abs_##S(a.v); }                                                      \
  GNS_INLINE Vec<T> sqrt(Vec<T> a) { return _mm512_sqrt_##S(a.v); }                                                    \
  GNS_INLINE Vec<T> floor(Vec<T> a) { return _mm512_roundscale_##S(a.v, 0x09); }                                       \
  GNS_INLINE Vec<T> ceil(Vec<T> a) { return _mm512_roundscale_##S(a.v, 0x0A); }                                        \
  GNS_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_LT_OQ)}; }           \
  GNS_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_GT_OQ)}; }           \
  GNS_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_GE_OQ)}; }          \
  GNS_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {_mm512_cmp_##S##_mask(a.v, b.v, _CMP_LE_OQ)}; }          \
  GNS_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {decltype(a.m)(a.m & b.m)}; }                            \
  GNS_INLINE Mask<T> andnot(Mask<T> a, Mask<T> b) { return {decltype(a.m)(a.m & ~b.m)}; }                              \
  GNS_INLINE bool any(Mask<T> a) { return a.m != 0; }                                                                  \
  GNS_INLINE unsigned bits(Mask<T> a) { return a.m; }                                                                  \
  GNS_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return _mm512_mask_blend_##S(m.m, b.v, a.v); }             \
  GNS_INLINE Vec<T> zero_unless(Mask<T> m, Vec<T> a) { return _mm512_maskz_mov_##S(m.m, a.v); }                        \
  GNS_INLINE Vec<T> negative_abs(Vec<T> a) { return _mm512_or_##S(a.v, _mm512_set1_##S(T(-0.0))); }
GNS_OPS(float, ps)
GNS_OPS(double, pd)
#undef GNS_OPS

// x = n + f: f is what the polynomial sees, n what exp2_scale adds to the exponent (it takes the floor itself).
GNS_INLINE Vec<float> exp2_reduce(Vec<float> x, Vec<float>& f) {
  f = _mm512_reduce_ps(x.v, 0x09);
  return x;
}
GNS_INLINE Vec<double> exp2_reduce(Vec<double> x, Vec<double>& f) {
  Vec<double> n = _mm512_roundscale_pd(x.v, 0x08);
  f = x - n;
  return n;
}
GNS_INLINE Vec<float> exp2_scale(Vec<float> p, Vec<float> n) { return _mm512_scalef_ps(p.v, n.v); }
GNS_INLINE Vec<double> exp2_scale(Vec<double> p, Vec<double> n) { return _mm512_scalef_pd(p.v, n.v); }
// Exponent and mantissa in [0.75, 1.5) of a positive number.
GNS_INLINE void frexp_near_one(Vec<float> x, Vec<float>& m, Vec<float>& e) {
  m.v = _mm512_getmant_ps(x.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  e.v = _mm512_getexp_ps((x / m).v);
}
GNS_INLINE void frexp_near_one(Vec<double> x, Vec<double>& m, Vec<double>& e) {
  m.v = _mm512_getmant_pd(x.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  e.v = _mm512_getexp_pd((x / m).v);
}
// 1/x to about one unit in the last place: an estimate of 14 bits and one Newton step.
GNS_INLINE Vec<float> reciprocal(Vec<float> x) {
  Vec<float> r = _mm512_rcp14_ps(x.v);
  return fma(fnma(x, r, Vec<float>(1.0f)), r, r);
}
GNS_INLINE Vec<double> reciprocal(Vec<double> x) { return Vec<double>(1.0) / x; }
GNS_INLINE void store_int(Vec<float> x, int32_t* p) { _mm512_storeu_si512(p, _mm512_cvttps_epi32(x.v)); }
GNS_INLINE void store_int(Vec<double> x, int32_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvttpd_epi32(x.v));
}

// ---------------------------------------------------------------------------------------------------------------------
#elif defined(GNS_AVX2)

template <> struct Mask<float> { __m256 m; };
template <> struct Mask<double> { __m256d m; };

template <> struct Vec<float> {
  using Scalar = float;
  static constexpr int width = 8;
  __m256 v;
  Vec() = default;
  GNS_INLINE Vec(__m256 x) : v(x) {}
  GNS_INLINE Vec(float x) : v(_mm256_set1_ps(x)) {}
  static GNS_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  GNS_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
};
template <> struct Vec<double> {
  using Scalar = double;
  static constexpr int width = 4;
  __m256d v;
  Vec() = default;
  GNS_INLINE Vec(__m256d x) : v(x) {}
  GNS_INLINE Vec(double x) : v(_mm256_set1_pd(x)) {}
  static GNS_INLINE Vec load(const double* p) { return _mm256_loadu_pd(p); }
  GNS_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
};

#define GNS_OPS(T, S)                                                                                                 \
  GNS_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return _mm256_add_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return _mm256_sub_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return _mm256_mul_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return _mm256_div_##S(a.v, b.v); }                                 \
  GNS_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return _mm256_fmadd_##S(a.v, b.v, c.v); }                      \
  GNS_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return _mm256_fnmadd_##S(a.v, b.v, c.v); }                    \
  GNS_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return _mm256_min_##S(a.v, b.v); }                                       \
  GNS_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return _mm256_max_##S(a.v, b.v); }                                       \
  GNS_INLINE Vec<T> abs(Vec<T> a) { return _mm256_andnot_##S(_mm256_set1_##S(T(-0.0)), a.v); }                         \
  GNS_INLINE Vec<T> sqrt(Vec<T> a) { return _mm256_sqrt_##S(a.v); }                                                    \
  GNS_INLINE Vec<T> floor(Vec<T> a) { return _mm256_floor_##S(a.v); }                                                  \
  GNS_INLINE Vec<T> ceil(Vec<T> a) { return _mm256_ceil_##S(a.v); }                                                    \
  GNS_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_LT_OQ)}; }                  \
  GNS_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_GT_OQ)}; }                  \
  GNS_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_GE_OQ)}; }                 \
  GNS_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {_mm256_cmp_##S(a.v, b.v, _CMP_LE_OQ)}; }                 \
  GNS_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {_mm256_and_##S(a.m, b.m)}; }                            \
  GNS_INLINE Mask<T> andnot(Mask<T> a, Mask<T> b) { return {_mm256_andnot_##S(b.m, a.m)}; }                            \
  GNS_INLINE bool any(Mask<T> a) { return _mm256_movemask_##S(a.m) != 0; }                                             \
  GNS_INLINE unsigned bits(Mask<T> a) { return unsigned(_mm256_movemask_##S(a.m)); }                                   \
  GNS_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return _mm256_blendv_##S(b.v, a.v, m.m); }                 \
  GNS_INLINE Vec<T> zero_unless(Mask<T> m, Vec<T> a) { return _mm256_and_##S(m.m, a.v); }                              \
  GNS_INLINE Vec<T> negative_abs(Vec<T> a) { return _mm256_or_##S(a.v, _mm256_set1_##S(T(-0.0))); }
GNS_OPS(float, ps)
GNS_OPS(double, pd)
#undef GNS_OPS

GNS_INLINE Vec<float> exp2_reduce(Vec<float> x, Vec<float>& f) {
  Vec<float> n = _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  f = x - n;
  return n;
}
GNS_INLINE Vec<double> exp2_reduce(Vec<double> x, Vec<double>& f) {
  Vec<double> n = _mm256_round_pd(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  f = x - n;
  return n;
}
GNS_INLINE Vec<float> exp2_scale(Vec<float> p, Vec<float> n) {
  __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p.v), e));
}
GNS_INLINE Vec<double> exp2_scale(Vec<double> p, Vec<double> n) {
  __m256i e = _mm256_slli_epi64(_mm256_castpd_si256(_mm256_add_pd(n.v, _mm256_set1_pd(6755399441055744.0))), 52);
  return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p.v), e));
}
GNS_INLINE Vec<float> reciprocal(Vec<float> x) { return Vec<float>(1.0f) / x; }
GNS_INLINE Vec<double> reciprocal(Vec<double> x) { return Vec<double>(1.0) / x; }
GNS_INLINE void store_int(Vec<float> x, int32_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(x.v));
}
GNS_INLINE void store_int(Vec<double> x, int32_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvttpd_epi32(x.v));
}

// ---------------------------------------------------------------------------------------------------------------------
#else  // Any other machine: the compiler's own vectors (SSE2, NEON, ...), four floats or four doubles a register.

template <class T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(32)));
  typedef int64_t I __attribute__((vector_size(32)));
};
template <class T> struct Mask { typename Lanes<T>::I m; };
template <class T> struct Vec {
  using Scalar = T;
  static constexpr int width = 4;
  using V = typename Lanes<T>::V;
  V v;
  Vec() = default;
  GNS_INLINE Vec(V x) : v(x) {}
  GNS_INLINE Vec(T x) : v(V{x, x, x, x}) {}
  static GNS_INLINE Vec load(const T* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof(V));
    return r;
  }
  GNS_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof(V)); }
};

template <class T, class F> GNS_INLINE Vec<T> each(Vec<T> a, F f) {
  for (int i = 0; i < Vec<T>::width; ++i) a.v[i] = f(a.v[i]);
  return a;
}

#define GNS_OPS(T, FMA)                                                                                               \
  GNS_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return a.v + b.v; }                                                \
  GNS_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return a.v - b.v; }                                                \
  GNS_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return a.v * b.v; }                                                \
  GNS_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return a.v / b.v; }                                                \
  GNS_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return FMA(a.v, b.v, c.v); }                                   \
  GNS_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return FMA(-a.v, b.v, c.v); }                                 \
  GNS_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {a.v < b.v}; }                                             \
  GNS_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return {a.v > b.v}; }                                             \
  GNS_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {a.v >= b.v}; }                                           \
  GNS_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {a.v <= b.v}; }                                           \
  GNS_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.m & b.m}; }                                           \
  GNS_INLINE Mask<T> andnot(Mask<T> a, Mask<T> b) { return {a.m & ~b.m}; }                                             \
  GNS_INLINE unsigned bits(Mask<T> a) {                                                                                \
    return unsigned(a.m[0] & 1) | unsigned(a.m[1] & 2) | unsigned(a.m[2] & 4) | unsigned(a.m[3] & 8);                  \
  }                                                                                                                   \
  GNS_INLINE bool any(Mask<T> a) { return bits(a) != 0; }                                                              \
  GNS_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {                                                            \
    using I = Lanes<T>::I;                                                                                            \
    return Lanes<T>::V((m.m & I(a.v)) | (~m.m & I(b.v)));                                                              \
  }                                                                                                                   \
  GNS_INLINE Vec<T> zero_unless(Mask<T> m, Vec<T> a) { return Lanes<T>::V(m.m & Lanes<T>::I(a.v)); }                   \
  GNS_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return select(a < b, a, b); }                                            \
  GNS_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return select(a > b, a, b); }                                            \
  GNS_INLINE Vec<T> negative_abs(Vec<T> a) {                                                                           \
    return Lanes<T>::V(Lanes<T>::I(a.v) | Lanes<T>::I(Vec<T>(T(-0.0)).v));                                             \
  }                                                                                                                   \
  GNS_INLINE Vec<T> abs(Vec<T> a) { return Lanes<T>::V(Lanes<T>::I(a.v) & ~Lanes<T>::I(Vec<T>(T(-0.0)).v)); }          \
  GNS_INLINE Vec<T> sqrt(Vec<T> a) { return each(a, [](T x) { return T(__builtin_sqrt(x)); }); }                       \
  GNS_INLINE Vec<T> floor(Vec<T> a) { return each(a, [](T x) { return T(__builtin_floor(x)); }); }                     \
  GNS_INLINE Vec<T> ceil(Vec<T> a) { return each(a, [](T x) { return T(__builtin_ceil(x)); }); }                       \
  GNS_INLINE Vec<T> reciprocal(Vec<T> x) { return Vec<T>(T(1)) / x; }                                                  \
  GNS_INLINE void store_int(Vec<T> x, int32_t* p) {                                                                    \
    for (int i = 0; i < 4; ++i) p[i] = int32_t(x.v[i]);                                                                \
  }
#if defined(__aarch64__)  // every 64-bit Arm has fused multiply-add; baseline x86-64 has not, and rounds twice
GNS_INLINE Lanes<float>::V fused(Lanes<float>::V a, Lanes<float>::V b, Lanes<float>::V c) {
  for (int i = 0; i < 4; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
GNS_INLINE Lanes<double>::V fused(Lanes<double>::V a, Lanes<double>::V b, Lanes<double>::V c) {
  for (int i = 0; i < 4; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
}
#else
GNS_INLINE Lanes<float>::V fused(Lanes<float>::V a, Lanes<float>::V b, Lanes<float>::V c) { return a * b + c; }
GNS_INLINE Lanes<double>::V fused(Lanes<double>::V a, Lanes<double>::V b, Lanes<double>::V c) { return a * b + c; }
#endif
GNS_OPS(float, fused)
GNS_OPS(double, fused)
#undef GNS_OPS

// Adding 1.5·2^23 (1.5·2^52) leaves the nearest integer in the low mantissa bits.
template <class T> constexpr T round_magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);
template <class T> GNS_INLINE Vec<T> exp2_reduce(Vec<T> x, Vec<T>& f) {
  Vec<T> n = (x + Vec<T>(round_magic<T>)) - Vec<T>(round_magic<T>);
  f = x - n;
  return n;
}
template <class T> GNS_INLINE Vec<T> exp2_scale(Vec<T> p, Vec<T> n) {
  using I = typename Lanes<T>::I;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  I e = I((n + Vec<T>(round_magic<T>)).v) << mantissa;
  return typename Lanes<T>::V(I(p.v) + e);
}
#endif

// ---------------------------------------------------------------------------------------------------------------------
// For every instruction set.

template <class T> GNS_INLINE Vec<T> operator-(Vec<T> a) { return Vec<T>(T(0)) - a; }
template <class T> GNS_INLINE Vec<T>& operator+=(Vec<T>& a, Vec<T> b) { return a = a + b; }

#if !defined(GNS_AVX512)
template <class T> GNS_INLINE void frexp_near_one(Vec<T> x, Vec<T>& m, Vec<T>& e) {
  constexpr int width = Vec<T>::width;
  T in[width], mantissa[width], exponent[width];
  x.store(in);
  for (int i = 0; i < width; ++i) {
    int k = 0;
    mantissa[i] = std::frexp(in[i], &k);  // in [0.5, 1)
    if (mantissa[i] < T(0.75)) mantissa[i] *= 2, --k;
    exponent[i] = T(k);
  }
  m = Vec<T>::load(mantissa);
  e = Vec<T>::load(exponent);
}
#endif

// 2^x for |x| < 126. Float: minimax polynomial of degree 5, relative error 7.5e-8 before rounding; double: the series.
GNS_INLINE Vec<float> exp2(Vec<float> x) {
  Vec<float> f;
  const Vec<float> n = exp2_reduce(x, f);
#if defined(GNS_AVX512)  // the remainder lies in [0, 1)
  Vec<float> p = fma(Vec<float>(0.0018775765784084797f), f, Vec<float>(0.008989340625703335f));
  p = fma(p, f, Vec<float>(0.05582631751894951f));
  p = fma(p, f, Vec<float>(0.24015361070632935f));
  p = fma(p, f, Vec<float>(0.6931530833244324f));
  p = fma(p, f, Vec<float>(0.9999999403953552f));
#else  // in [-0.5, 0.5]
  Vec<float> p = fma(Vec<float>(0.001327647129073739f), f, Vec<float>(0.009675541892647743f));
  p = fma(p, f, Vec<float>(0.05550713092088699f));
  p = fma(p, f, Vec<float>(0.24022120237350464f));
  p = fma(p, f, Vec<float>(0.6931469440460205f));
  p = fma(p, f, Vec<float>(1.0000001192092896f));
#endif
  return exp2_scale(p, n);
}
GNS_INLINE Vec<double> exp2(Vec<double> x) {
  Vec<double> f;
  const Vec<double> n = exp2_reduce(x, f);
  constexpr double ln2 = 0.69314718055994530942;
  const Vec<double> t = f * Vec<double>(ln2);
  Vec<double> p(1.0 / 6227020800.0);  // 1/13!
  constexpr double inverse_factorial[13] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040,
                                            1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600};
  for (int k = 12; k >= 0; --k) p = fma(p, t, Vec<double>(inverse_factorial[k]));
  return exp2_scale(p, n);
}

template <class T> GNS_INLINE Vec<T> fast_exp2(Vec<T> x) { return exp2(x); }

// log2 of a positive number, by atanh: log m = 2 (s + s³/3 + s⁵/5 + ...), s = (m − 1)/(m + 1), |s| ≤ 0.2.
template <class T> GNS_INLINE Vec<T> log2(Vec<T> x) {
  Vec<T> m, e;
  frexp_near_one(x, m, e);
  const Vec<T> s = (m - Vec<T>(T(1))) / (m + Vec<T>(T(1))), s2 = s * s;
  constexpr int terms = sizeof(T) == 4 ? 5 : 12;
  Vec<T> p(T(1.0 / (2 * terms + 1)));
  for (int k = terms - 1; k >= 0; --k) p = fma(p, s2, Vec<T>(T(1.0 / (2 * k + 1))));
  return fma(p * s, Vec<T>(T(2 * 1.44269504088896340736)), e);
}

// Lanes k, k+1, ... of `low` followed by `high`: what an unaligned load between the two would fetch.
#if defined(GNS_AVX512)
template <int k> GNS_INLINE Vec<float> shifted(Vec<float> low, Vec<float> high) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high.v), _mm512_castps_si512(low.v), k));
}
#endif

// The first n lanes from memory, zero in the rest.
template <class T> GNS_INLINE Vec<T> load_first(const T* p, int n) {
  constexpr int width = Vec<T>::width;
  if (n >= width) return Vec<T>::load(p);
  T lanes[width] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return Vec<T>::load(lanes);
}
template <class T> GNS_INLINE void store_first(Vec<T> x, T* p, int n) {
  constexpr int width = Vec<T>::width;
  if (n >= width) return x.store(p);
  T lanes[width];
  x.store(lanes);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

// Sums of twelve registers over their lanes: out[k] = Σ lanes of a[k], in a fixed order.
template <class T> GNS_INLINE void sum_lanes(const Vec<T> (&a)[12], T* out) {
  constexpr int width = Vec<T>::width;
  for (int k = 0; k < 12; ++k) {
    T lanes[width];
    a[k].store(lanes);
    for (int half = width / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    out[k] = lanes[0];
  }
}
#if defined(GNS_AVX512)
// A transposed tree: at each level two registers are folded into one, 36 instructions instead of twelve full sums.
template <> GNS_INLINE void sum_lanes<float>(const Vec<float> (&a)[12], float* out) {
  auto fold_halves = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
  };
  auto fold_quarters = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xDD));
  };
  auto fold_pairs = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x88), _mm512_shuffle_ps(x, y, 0xDD));
  };
  __m512 group[3];  // group[j]: 128-bit lane L holds four partial sums of a[3·L + j]
  for (int j = 0; j < 3; ++j)
    group[j] = fold_quarters(fold_halves(a[j].v, a[3 + j].v), fold_halves(a[6 + j].v, a[9 + j].v));
  const __m512 sums = fold_pairs(fold_pairs(group[0], group[1]), fold_pairs(group[2], group[2]));
  // Lane L = (Σ a[3L], Σ a[3L+1], Σ a[3L+2], Σ a[3L+2]): drop every fourth. (The storing form of compress is microcoded
  // on Zen 4 and 5, hence in a register first.)
  _mm512_mask_storeu_ps(out, 0x0FFF, _mm512_maskz_compress_ps(0x7777, sums));
}
#endif
#if defined(GNS_AVX2)
template <> GNS_INLINE void sum_lanes<float>(const Vec<float> (&a)[12], float* out) {
  for (int k = 0; k < 12; k += 4) {
    const __m256 s01 = _mm256_hadd_ps(a[k].v, a[k + 1].v), s23 = _mm256_hadd_ps(a[k + 2].v, a[k + 3].v);
    const __m256 s = _mm256_hadd_ps(s01, s23);
    _mm_storeu_ps(out + k, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
  }
}
#endif

}  // namespace gns::GNS_ISA
