// What a CUDA thread computes with: plain floats, and the few instructions that have no C++ name.
#pragma once

#define GNS_DEVICE __device__ __forceinline__

namespace gns {

// The operations that backend.h asks for.
GNS_DEVICE float fma(float a, float b, float c) { return fmaf(a, b, c); }
GNS_DEVICE float fnma(float a, float b, float c) { return fmaf(-a, b, c); }
GNS_DEVICE float min(float a, float b) { return a < b ? a : b; }
GNS_DEVICE float max(float a, float b) { return a > b ? a : b; }
GNS_DEVICE float abs(float a) { return fabsf(a); }
GNS_DEVICE float negative_abs(float a) { return -fabsf(a); }
GNS_DEVICE float sqrt(float a) { return sqrtf(a); }
GNS_DEVICE float floor(float a) { return floorf(a); }
GNS_DEVICE float ceil(float a) { return ceilf(a); }
GNS_DEVICE float exp2(float a) { return exp2f(a); }
GNS_DEVICE float log2(float a) { return log2f(a); }
GNS_DEVICE float select(bool condition, float if_true, float if_false) { return condition ? if_true : if_false; }
GNS_DEVICE float zero_unless(bool condition, float a) { return condition ? a : 0.0f; }

// 2^x in one instruction: relative error 2⁻²², results below 2⁻¹²⁶ flushed to zero.
GNS_DEVICE float fast_exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// 1/x in one instruction, for x between 2⁻¹²⁶ and 2¹²⁶: relative error 2⁻²³.
GNS_DEVICE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

}  // namespace gns

#include "splat_math.h"

namespace gns {

constexpr int kSplat = 3;         // float4 of one Gaussian on the screen, see Splat
constexpr int kFootprint = 2;     // float4 of one footprint, see tiles.cuh
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

GNS_DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The camera comes to a kernel as plain numbers, in this order: they land in constant memory without any copy.
#define GNS_CAMERA_ARGUMENTS                                                                                          \
  int width, int height, float fx, float fy, float cx, float cy, float r0, float r1, float r2, float r3, float r4,     \
      float r5, float r6, float r7, float r8, float tx, float ty, float tz, float center_x, float center_y,            \
      float center_z, float limit_x, float limit_y, int antialiased
#define GNS_CAMERA                                                                                                    \
  gns::PinholeCamera<float> {                                                                                         \
    width, height, fx, fy, cx, cy, {r0, r1, r2, r3, r4, r5, r6, r7, r8}, {tx, ty, tz}, {center_x, center_y, center_z}, \
        limit_x, limit_y, antialiased != 0                                                                            \
  }

// Raw parameters as planes: component k of Gaussian i at [k·count + i].
struct Parameters {
  int count;
  int sh_degree;  // degree to evaluate
  const float *means, *log_scales, *quats, *opacity_logits, *sh_dc, *sh_rest;
};

GNS_DEVICE RawGeometry<float> load_geometry(const Parameters& in, int i) {
  const size_t n = in.count;
  RawGeometry<float> raw;
  raw.mean = {in.means[i], in.means[n + i], in.means[2 * n + i]};
  for (int k = 0; k < 3; ++k) raw.log_scale[k] = in.log_scales[k * n + i];
  for (int k = 0; k < 4; ++k) raw.quat[k] = in.quats[k * n + i];
  return raw;
}

}  // namespace gns
