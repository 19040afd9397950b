// From the packets of a Gaussian's instances to the gradients of its raw parameters, a thread a Gaussian.
#include "device.cuh"

namespace gns {

constexpr int kSummedAlone = 32;  // a thread sums this many packets by itself; those of larger Gaussians its whole warp

// Gradients in the layout of the parameters; added to.
struct Gradients {
  float *means, *log_scales, *quats, *opacity_logits, *sh_dc, *sh_rest;
};

GNS_DEVICE void add_packet(float (&sum)[kPacket], const float4* packet) {
  for (int quad = 0; quad < kPacket / 4; ++quad) {
    const float4 part = packet[quad];
    sum[4 * quad] += part.x;
    sum[4 * quad + 1] += part.y;
    sum[4 * quad + 2] += part.z;
    sum[4 * quad + 3] += part.w;
  }
}

// Sums of this lane's Gaussian: `tiles` packets from slot `begin` on. All lanes of the warp must call. The order of
// summation depends on nothing but `tiles`.
GNS_DEVICE void sum_packets(float (&sum)[kPacket], const float4* packets, int begin, int tiles) {
  const int lane = threadIdx.x % kWarp;
  if (tiles <= kSummedAlone)
    for (int k = 0; k < tiles; ++k) add_packet(sum, packets + (size_t(begin) + k) * (kPacket / 4));
  for (unsigned large = __ballot_sync(kAllLanes, tiles > kSummedAlone); large; large &= large - 1) {
    const int from = __ffs(large) - 1;
    const int first = __shfl_sync(kAllLanes, begin, from), count = __shfl_sync(kAllLanes, tiles, from);
    float part[kPacket] = {};
    for (int k = lane; k < count; k += kWarp) add_packet(part, packets + (size_t(first) + k) * (kPacket / 4));
    for (int j = 0; j < kPacket; ++j) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2)
        part[j] += __shfl_xor_sync(kAllLanes, part[j], distance);
      if (lane == from) sum[j] = part[j];
    }
  }
}

// gradient[k] += value[k], plane by plane; all loads are under way before the first store.
template <int kCount>
GNS_DEVICE void add_to_planes(float* gradient, size_t n, int i, const float (&value)[kCount]) {
  float before[kCount];
  for (int k = 0; k < kCount; ++k) before[k] = gradient[k * n + i];
  for (int k = 0; k < kCount; ++k) gradient[k * n + i] = before[k] + value[k];
}

// Some coefficients of one band, from the one numbered kFirst on: adds their gradients, and finds those of the basis'
// values.
template <int kFirst, int kCount>
GNS_DEVICE void band_backward(const Parameters& in, const Gradients& out, const float (&colour)[3],
                              const float (&basis)[15], float (&by_basis)[15], int i) {
  const size_t n = in.count;
  float gradient[3 * kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    by_basis[kFirst + k] = 0.0f;
    for (int c = 0; c < 3; ++c) {
      const float coefficient = in.sh_rest[(3 * (kFirst + k) + c) * n + i];
      gradient[3 * k + c] = coefficient_backward(colour[c], coefficient, basis[kFirst + k], by_basis[kFirst + k]);
    }
  }
  add_to_planes(out.sh_rest + 3 * kFirst * n, n, i, gradient);
}

// Gradients of the coefficients from those of the colour; returns what reaches the mean through the view direction.
GNS_DEVICE Vec3<float> colour_backward(const PinholeCamera<float>& camera, const Parameters& in, const Gradients& out,
                                       const Vec3<float>& mean, const float (&colour)[3], int i) {
  const float constant[3] = {constant_backward(colour[0]), constant_backward(colour[1]), constant_backward(colour[2])};
  add_to_planes(out.sh_dc, in.count, i, constant);
  Vec3<float> through_direction = {0.0f, 0.0f, 0.0f};
  if (in.sh_degree == 0) return through_direction;
  float inverse, basis[15], by_basis[15] = {};
  const Vec3<float> d = view_direction(camera, mean, inverse);
  sh_basis(d, in.sh_degree, basis);
  band_backward<0, 3>(in, out, colour, basis, by_basis, i);
  if (in.sh_degree > 1) {  // in parts, for want of registers
    band_backward<3, 3>(in, out, colour, basis, by_basis, i);
    band_backward<6, 2>(in, out, colour, basis, by_basis, i);
  }
  if (in.sh_degree > 2) {
    band_backward<8, 3>(in, out, colour, basis, by_basis, i);
    band_backward<11, 2>(in, out, colour, basis, by_basis, i);
    band_backward<13, 2>(in, out, colour, basis, by_basis, i);
  }
  view_direction_backward(d, inverse, sh_basis_backward(d, in.sh_degree, by_basis), through_direction);
  return through_direction;
}

GNS_DEVICE void project_one_backward(const PinholeCamera<float>& camera, const Parameters& in, const Gradients& out,
                                     const float4& shade, const float (&sum)[kPacket], int i) {
  const size_t n = in.count;
  const RawGeometry<float> raw = load_geometry(in, i);
  const float colour[3] = {clamp_backward(shade.x, sum[0]), clamp_backward(shade.y, sum[1]),
                           clamp_backward(shade.z, sum[2])};
  const Vec3<float> through_colour = colour_backward(camera, in, out, raw.mean, colour, i);

  const Projection<float> p = project(camera, raw);
  const RawGeometry<float> gradient = project_backward(camera, p, screen_gradient<float>(sum));
  const float mean[3] = {gradient.mean.x + through_colour.x, gradient.mean.y + through_colour.y,
                         gradient.mean.z + through_colour.z};
  add_to_planes(out.means, n, i, mean);
  add_to_planes(out.log_scales, n, i, gradient.log_scale);
  add_to_planes(out.quats, n, i, gradient.quat);
  out.opacity_logits[i] += opacity_backward(activate_opacity(in.opacity_logits[i]), sum[3]);
}

}  // namespace gns

extern "C" __global__ void __launch_bounds__(128, 6)
    project_backward(GNS_CAMERA_ARGUMENTS, int count, int sh_degree, const float* __restrict__ means,
                     const float* __restrict__ log_scales, const float* __restrict__ quats,
                     const float* __restrict__ opacity_logits, const float* __restrict__ sh_dc,
                     const float* __restrict__ sh_rest, const int* __restrict__ tile_counts,
                     const int* __restrict__ slot_begin, const float4* __restrict__ splats,
                     const float4* __restrict__ packets, float* __restrict__ means_gradient,
                     float* __restrict__ log_scales_gradient, float* __restrict__ quats_gradient,
                     float* __restrict__ opacity_logits_gradient, float* __restrict__ sh_dc_gradient,
                     float* __restrict__ sh_rest_gradient, float* __restrict__ abs_mean2d,
                     float* __restrict__ mean2d) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const bool exists = i < count;
  const int tiles = exists ? tile_counts[i] : 0;
  float sum[gns::kPacket] = {};
  gns::sum_packets(sum, packets, tiles ? slot_begin[i] : 0, tiles);
  if (!exists) return;
  if (abs_mean2d) {
    abs_mean2d[i] = sum[6] * (0.5f * float(width));
    abs_mean2d[size_t(count) + i] = sum[7] * (0.5f * float(height));
  }
  if (mean2d) {
    mean2d[i] = sum[4] * (-0.5f * float(width));
    mean2d[size_t(count) + i] = sum[5] * (-0.5f * float(height));
  }
  if (!tiles) return;
  const gns::Parameters in = {count, sh_degree, means, log_scales, quats, opacity_logits, sh_dc, sh_rest};
  const gns::Gradients out = {means_gradient,          log_scales_gradient, quats_gradient,
                              opacity_logits_gradient, sh_dc_gradient,      sh_rest_gradient};
  gns::project_one_backward(GNS_CAMERA, in, out, splats[size_t(i) * gns::kSplat + 2], sum, i);
}
