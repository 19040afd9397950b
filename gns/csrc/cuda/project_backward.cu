// From the packets of a Gaussian's instances to the gradients of its raw parameters, a thread a Gaussian; and on request
// to Adam's step with them, which never writes a gradient to memory.
#include "device.cuh"
#include "adam_math.h"

namespace gns {

constexpr int kSummedAlone = 32;  // a thread sums this many packets by itself; those of larger Gaussians its whole warp

// The six parameter groups, as everything lists them.
enum Group { kMeans, kLogScales, kQuats, kOpacityLogits, kShDc, kShRest, kGroups };

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

// Where gradients go, some planes of a group at a time: `from` is the first. All loads are under way before the first
// store. A sink either takes only what is drawn, or everything: then what is not drawn has a gradient of zero.

// Adds to gradients that lie in memory like the parameters.
struct AddingSink {
  static constexpr bool kTakesAll = false;
  static constexpr int kTogether = 3;  // SH coefficients at a time: as many loads under way as registers allow
  int count;
  float* gradients[kGroups];

  template <Group group, int kPlanes>
  GNS_DEVICE void take(int from, int i, const float (&)[kPlanes], const float (&value)[kPlanes]) const {
    const size_t n = count;
    float* gradient = gradients[group] + from * n + i;
    float before[kPlanes];
    for (int k = 0; k < kPlanes; ++k) before[k] = gradient[k * n];
    for (int k = 0; k < kPlanes; ++k) gradient[k * n] = before[k] + value[k];
  }
};

// What Adam needs of one group. `further` is a gradient by something else than the picture, or null.
struct Stepped {
  float *parameter, *first_moment, *second_moment;
  const float* further;
  float step, inverse_root, keep;  // see AdamFactors
};

// Lets Adam spend the gradients at once: bit for bit what adding them to zeros and a step of `adam` would do.
struct SteppingSink {
  static constexpr bool kTakesAll = true;
  static constexpr int kTogether = 2;
  int count;
  Stepped groups[kGroups];
  float beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon;

  template <Group group, int kPlanes>
  GNS_DEVICE void take(int from, int i, const float (&parameter)[kPlanes],
                       const float (&value)[kPlanes]) const {
    const size_t n = count, at = from * n + i;
    const Stepped& t = groups[group];
    const AdamFactors<float> factors = {beta1,   one_minus_beta1, beta2,          one_minus_beta2,
                                        epsilon, t.step,          t.inverse_root, t.keep};
    float first[kPlanes], second[kPlanes], before[kPlanes] = {};
    for (int k = 0; k < kPlanes; ++k) {
      first[k] = t.first_moment[at + k * n];
      second[k] = t.second_moment[at + k * n];
    }
    if (t.further)
      for (int k = 0; k < kPlanes; ++k) before[k] = t.further[at + k * n];
    for (int k = 0; k < kPlanes; ++k) {
      const AdamElement<float> after = adam_step({parameter[k], first[k], second[k]}, before[k] + value[k], factors);
      t.parameter[at + k * n] = after.parameter;
      t.first_moment[at + k * n] = after.first_moment;
      t.second_moment[at + k * n] = after.second_moment;
    }
  }
};

// The coefficients from kFirst to before kEnd, all of one band: hands over their gradients, and finds those of the basis'
// values. A Gaussian that is not drawn, or not with this band, `passes` nothing on.
template <int kFirst, int kEnd, class Sink>
GNS_DEVICE void band_backward(const Parameters& in, const Sink& sink, bool passes, const float (&colour)[3],
                              const float (&basis)[15], float (&by_basis)[15], int i) {
  constexpr int kCount = kEnd - kFirst < Sink::kTogether ? kEnd - kFirst : Sink::kTogether;
  const size_t n = in.count;
  float coefficient[3 * kCount], gradient[3 * kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    by_basis[kFirst + k] = 0.0f;
    for (int c = 0; c < 3; ++c) {
      coefficient[3 * k + c] = in.sh_rest[(3 * (kFirst + k) + c) * n + i];
      const float value = coefficient_backward(colour[c], coefficient[3 * k + c], basis[kFirst + k],
                                               by_basis[kFirst + k]);
      gradient[3 * k + c] = passes ? value : 0.0f;
    }
  }
  sink.template take<kShRest>(3 * kFirst, i, coefficient, gradient);
  if constexpr (kFirst + kCount < kEnd)
    band_backward<kFirst + kCount, kEnd>(in, sink, passes, colour, basis, by_basis, i);
}

// Gradients of the coefficients up to degree `stored` from those of the colour; returns what reaches the mean through
// the view direction.
template <class Sink>
GNS_DEVICE Vec3<float> colour_backward(const PinholeCamera<float>& camera, const Parameters& in, int stored,
                                       const Sink& sink, bool drawn, const Vec3<float>& mean,
                                       const float (&colour)[3], int i) {
  const size_t n = in.count;
  const float constant[3] = {in.sh_dc[i], in.sh_dc[n + i], in.sh_dc[2 * n + i]};
  const float by_constant[3] = {constant_backward(colour[0]), constant_backward(colour[1]),
                                constant_backward(colour[2])};
  sink.template take<kShDc>(0, i, constant, by_constant);
  Vec3<float> through_direction = {0.0f, 0.0f, 0.0f};
  if (stored == 0) return through_direction;
  float inverse, basis[15] = {}, by_basis[15] = {};
  const Vec3<float> d = view_direction(camera, mean, inverse);
  if (in.sh_degree > 0) sh_basis(d, in.sh_degree, basis);
  const bool first = drawn && in.sh_degree > 0, second = drawn && in.sh_degree > 1, third = drawn && in.sh_degree > 2;
  band_backward<0, 3>(in, sink, first, colour, basis, by_basis, i);
  if (stored > 1) band_backward<3, 8>(in, sink, second, colour, basis, by_basis, i);
  if (stored > 2) band_backward<8, 15>(in, sink, third, colour, basis, by_basis, i);
  if (first) view_direction_backward(d, inverse, sh_basis_backward(d, in.sh_degree, by_basis), through_direction);
  return through_direction;
}

// `stored` is the highest degree of the coefficients in memory that the sink is to see.
template <class Sink>
GNS_DEVICE void project_one_backward(const PinholeCamera<float>& camera, const Parameters& in, int stored,
                                     const Sink& sink, const float4* splats, const float (&sum)[kPacket], bool drawn,
                                     int i) {
  const size_t n = in.count;
  const float mean[3] = {in.means[i], in.means[n + i], in.means[2 * n + i]};
  float colour[3] = {0.0f, 0.0f, 0.0f};
  if (drawn) {
    const float4 shade = splats[size_t(i) * kSplat + 2];
    colour[0] = clamp_backward(shade.x, sum[0]);
    colour[1] = clamp_backward(shade.y, sum[1]);
    colour[2] = clamp_backward(shade.z, sum[2]);
  }
  const Vec3<float> through_colour = colour_backward(camera, in, stored, sink, drawn,
                                                     {mean[0], mean[1], mean[2]}, colour, i);

  const RawGeometry<float> raw = load_geometry(in, i);  // only now, for want of registers
  const float logit[1] = {in.opacity_logits[i]};
  float by_mean[3] = {}, by_scale[3] = {}, by_quat[4] = {}, by_logit[1] = {};
  if (drawn) {
    const Projection<float> p = project(camera, raw);
    const RawGeometry<float> gradient = project_backward(camera, p, screen_gradient<float>(sum));
    by_mean[0] = gradient.mean.x + through_colour.x;
    by_mean[1] = gradient.mean.y + through_colour.y;
    by_mean[2] = gradient.mean.z + through_colour.z;
    for (int k = 0; k < 3; ++k) by_scale[k] = gradient.log_scale[k];
    for (int k = 0; k < 4; ++k) by_quat[k] = gradient.quat[k];
    by_logit[0] = opacity_backward(activate_opacity(logit[0]), sum[3]);
  }
  sink.template take<kMeans>(0, i, mean, by_mean);
  sink.template take<kLogScales>(0, i, raw.log_scale, by_scale);
  sink.template take<kQuats>(0, i, raw.quat, by_quat);
  sink.template take<kOpacityLogits>(0, i, logit, by_logit);
}

// What both kernels below do, a thread a Gaussian.
template <class Sink>
GNS_DEVICE void project_all_backward(const PinholeCamera<float>& camera, const Parameters& in, int stored,
                                     const Sink& sink, const int* tile_counts, const int* slot_begin,
                                     const float4* splats, const float4* packets, float* abs_mean2d, float* mean2d) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const bool exists = i < in.count;
  const int tiles = exists ? tile_counts[i] : 0;
  float sum[kPacket] = {};
  sum_packets(sum, packets, tiles ? slot_begin[i] : 0, tiles);
  if (!exists) return;
  if (abs_mean2d) {
    abs_mean2d[i] = sum[6] * (0.5f * float(camera.width));
    abs_mean2d[size_t(in.count) + i] = sum[7] * (0.5f * float(camera.height));
  }
  if (mean2d) {
    mean2d[i] = sum[4] * (-0.5f * float(camera.width));
    mean2d[size_t(in.count) + i] = sum[5] * (-0.5f * float(camera.height));
  }
  if (Sink::kTakesAll)
    project_one_backward(camera, in, stored, sink, splats, sum, tiles != 0, i);
  else if (tiles)
    project_one_backward(camera, in, stored, sink, splats, sum, true, i);
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
  const gns::Parameters in = {count, sh_degree, means, log_scales, quats, opacity_logits, sh_dc, sh_rest};
  const gns::AddingSink sink = {count,
                                {means_gradient, log_scales_gradient, quats_gradient, opacity_logits_gradient,
                                 sh_dc_gradient, sh_rest_gradient}};
  gns::project_all_backward(GNS_CAMERA, in, sh_degree, sink, tile_counts, slot_begin, splats, packets, abs_mean2d,
                            mean2d);
}

#define GNS_STEPPED_ARGUMENTS(k)                                                                                      \
  float *k, float *k##_first_moment, float *k##_second_moment, const float *k##_further, float k##_step,               \
      float k##_inverse_root, float k##_keep
#define GNS_STEPPED(k) {k, k##_first_moment, k##_second_moment, k##_further, k##_step, k##_inverse_root, k##_keep}

extern "C" __global__ void __launch_bounds__(128, 4)
    project_backward_step(GNS_CAMERA_ARGUMENTS, int count, int sh_degree, int sh_stored, const int* tile_counts,
                          const int* slot_begin, const float4* splats, const float4* packets, float* abs_mean2d,
                          float* mean2d, GNS_STEPPED_ARGUMENTS(means), GNS_STEPPED_ARGUMENTS(log_scales),
                          GNS_STEPPED_ARGUMENTS(quats), GNS_STEPPED_ARGUMENTS(opacity_logits),
                          GNS_STEPPED_ARGUMENTS(sh_dc), GNS_STEPPED_ARGUMENTS(sh_rest), float beta1,
                          float one_minus_beta1, float beta2, float one_minus_beta2, float epsilon) {
  const gns::Parameters in = {count, sh_degree, means, log_scales, quats, opacity_logits, sh_dc, sh_rest};
  const gns::SteppingSink sink = {count,
                                  {GNS_STEPPED(means), GNS_STEPPED(log_scales), GNS_STEPPED(quats),
                                   GNS_STEPPED(opacity_logits), GNS_STEPPED(sh_dc), GNS_STEPPED(sh_rest)},
                                  beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon};
  gns::project_all_backward(GNS_CAMERA, in, sh_stored, sink, tile_counts, slot_begin, splats, packets, abs_mean2d,
                            mean2d);
}
