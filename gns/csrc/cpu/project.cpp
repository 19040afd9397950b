// From raw parameters to splats on the screen, a register of Gaussians at a time; and back.
#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

template <class T> struct Inputs {
  Vec3<Vec<T>> mean;
  Vec<T> log_scale[3], quat[4];
};

template <class T> GNS_INLINE Inputs<T> load_geometry(const Parameters<T>& in, int i, int lanes) {
  const size_t n = in.count;
  Inputs<T> out;
  out.mean = {load_first(in.means + i, lanes), load_first(in.means + n + i, lanes),
              load_first(in.means + 2 * n + i, lanes)};
  for (int k = 0; k < 3; ++k) out.log_scale[k] = load_first(in.log_scales + k * n + i, lanes);
  for (int k = 0; k < 4; ++k) out.quat[k] = load_first(in.quats + k * n + i, lanes);
  return out;
}

// Direction from the camera to the mean, and one over its length.
template <class T>
GNS_INLINE Vec3<Vec<T>> view_direction(const PinholeCamera<T>& camera, const Vec3<Vec<T>>& mean, Vec<T>& inverse) {
  const Vec<T> x = mean.x - Vec<T>(camera.center[0]), y = mean.y - Vec<T>(camera.center[1]),
               z = mean.z - Vec<T>(camera.center[2]);
  inverse = Vec<T>(T(1)) / sqrt(fma(x, x, fma(y, y, z * z)));
  return {x * inverse, y * inverse, z * inverse};
}

// A comparison that NaN and the infinities fail, and anything a picture could be made of passes.
template <class T> GNS_INLINE Mask<T> finite(Vec<T> x) { return abs(x) < Vec<T>(sizeof(T) == 4 ? T(1e37) : T(1e300)); }

// Returns whether all coefficients were finite.
template <class T>
GNS_INLINE Mask<T> evaluate_colour(const Parameters<T>& in, const PinholeCamera<T>& camera, const Vec3<Vec<T>>& mean, int i,
                                int lanes, Vec<T> (&colour)[3]) {
  const size_t n = in.count;
  for (int c = 0; c < 3; ++c)
    colour[c] = fma(Vec<T>(T(kSH0)), load_first(in.sh_dc + c * n + i, lanes), Vec<T>(T(0.5)));
  if (in.sh_degree > 0) {
    Vec<T> inverse, basis[15];
    const Vec3<Vec<T>> direction = view_direction(camera, mean, inverse);
    sh_basis(direction, in.sh_degree, basis, T(0));
    const int terms = (in.sh_degree + 1) * (in.sh_degree + 1) - 1;
    for (int k = 0; k < terms; ++k)
      for (int c = 0; c < 3; ++c)
        colour[c] = fma(basis[k], load_first(in.sh_rest + (3 * k + c) * n + i, lanes), colour[c]);
  }
  const Mask<T> usable = finite(colour[0]) & finite(colour[1]) & finite(colour[2]);
  for (auto& channel : colour) channel = max(channel, Vec<T>(T(0)));
  return usable;
}

}  // namespace

template <class T>
void project(Frame<T>& frame, const Parameters<T>& in, bool with_colour, T* radii) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const PinholeCamera<T>& camera = frame.camera;
  const int n = in.count, groups = (n + kGroup - 1) / kGroup;
  frame.count = n;
  Splat<T>* splats = frame.splats.ensure(n);
  Footprint<T>* footprints = frame.footprints.ensure(n);
  uint32_t* slot_count = frame.slot_count.ensure(n);
  frame.slot_begin.ensure(n);
  Key* keys = frame.keys.ensure(n);
  int32_t* group_visible = frame.group_visible.ensure(groups);

  parallel_for(groups, [&](int group) {
    const int first = group * kGroup, last = first + kGroup < n ? first + kGroup : n;
    int found = 0;
    for (int i = first; i < last; i += W) {
      const int lanes = last - i < W ? last - i : W;
      const Inputs<T> raw = load_geometry(in, i, lanes);
      const Projection<V> p = gns::project<V, T>(camera, raw.mean, raw.log_scale, raw.quat);
      const V logit = load_first(in.opacity_logits + i, lanes);
      const Opacity<V> opacity = activate_opacity(logit, T(0));

      // Level of the α = 1/255 ellipse, dᵀΣ₂⁻¹d = 2 ln(255·o).
      const V level = V(T(2 * kLn2)) * (opacity.log2_value - V(T(kLog2MinAlpha)));
      const V half_x = sqrt(level * p.a), half_y = sqrt(level * p.c);
      const V half(T(0.5)), big_x(T(camera.width)), big_y(T(camera.height));
      const V x0 = max(ceil(p.u - half_x - half), V(T(0))), x1 = min(floor(p.u + half_x - half), big_x - V(T(1)));
      const V y0 = max(ceil(p.v - half_y - half), V(T(0))), y1 = min(floor(p.v + half_y - half), big_y - V(T(1)));

      // A chain of comparisons that are all false for NaN: a Gaussian with a broken parameter is simply not drawn.
      Mask<T> drawn = (p.view.z > V(T(kNear))) & finite(p.view.z) & finite(p.u) & finite(p.v) &
                      (p.determinant > V(T(0))) & finite(p.determinant) & finite(p.a) & finite(p.c) &
                      (level >= V(T(0))) & finite(logit) & (x0 <= x1) & (y0 <= y1);
      for (const V& log_scale : raw.log_scale) drawn = drawn & finite(log_scale);

      V colour[3] = {V(T(0)), V(T(0)), V(T(0))};
      if (any(drawn) && with_colour) drawn = drawn & evaluate_colour(in, camera, raw.mean, i, lanes, colour);
      const unsigned drawn_lanes = bits(drawn) & ((1u << lanes) - 1u);
      if (radii) {
        const V middle = half * (p.a + p.c), spread = half * (p.a - p.c);
        const V widest = middle + sqrt(fma(spread, spread, p.b * p.b));
        T lane[W];
        sqrt(level * widest).store(lane);
        for (int k = 0; k < lanes; ++k) radii[i + k] = (drawn_lanes >> k & 1) ? lane[k] : T(0);
      }
      for (int k = 0; k < lanes; ++k) slot_count[i + k] = 0;
      if (!drawn_lanes) continue;

      const V inverse_det = V(T(1)) / p.determinant;
      const V conic_a = p.c * inverse_det, conic_b = -(p.b * inverse_det), conic_c = p.a * inverse_det;
      // A little more than the ellipse, so that rounding can only add pixels to look at.
      const V safe_level = fma(level, V(T(1 + 1e-5)), V(T(1e-5)));
      const V inverse_a = V(T(1)) / p.a;
      enum { X, Y, QA, QB, QC, QL, RED, GREEN, BLUE, CA, CB, CC, HALF, LEVEL, INV_A, SLOPE, RESIDUAL, TOP, DEPTH, FIELDS };
      T field[FIELDS][W];
      p.u.store(field[X]);
      p.v.store(field[Y]);
      (V(T(-0.5 * kLog2E)) * conic_a).store(field[QA]);
      (V(T(-kLog2E)) * conic_b).store(field[QB]);
      (V(T(-0.5 * kLog2E)) * conic_c).store(field[QC]);
      opacity.log2_value.store(field[QL]);
      colour[0].store(field[RED]);
      colour[1].store(field[GREEN]);
      colour[2].store(field[BLUE]);
      conic_a.store(field[CA]);
      conic_b.store(field[CB]);
      conic_c.store(field[CC]);
      sqrt(safe_level * p.a).store(field[HALF]);
      safe_level.store(field[LEVEL]);
      inverse_a.store(field[INV_A]);
      (p.b * inverse_a).store(field[SLOPE]);
      (p.determinant * inverse_a).store(field[RESIDUAL]);
      (p.b * sqrt(safe_level / p.c)).store(field[TOP]);
      p.view.z.store(field[DEPTH]);
      int32_t box[4][W];
      const V zero(T(0));
      store_int(select(drawn, x0, zero), box[0]);
      store_int(select(drawn, x1, zero), box[1]);
      store_int(select(drawn, y0, zero), box[2]);
      store_int(select(drawn, y1, zero), box[3]);

      for (unsigned rest = drawn_lanes; rest; rest &= rest - 1) {
        const int k = __builtin_ctz(rest);
        splats[i + k] = {field[X][k],  field[Y][k],     field[QA][k],   field[QB][k], field[QC][k],
                         field[QL][k], field[RED][k],   field[GREEN][k], field[BLUE][k], field[CA][k],
                         field[CB][k], field[CC][k],    field[DEPTH][k], {}};
        footprints[i + k] = {box[0][k],       box[1][k],       box[2][k],       box[3][k],
                             field[X][k],     field[Y][k],     field[HALF][k],  field[LEVEL][k],
                             field[INV_A][k], field[SLOPE][k], field[RESIDUAL][k], field[TOP][k]};
        const float depth = static_cast<float>(field[DEPTH][k]);
        uint32_t depth_bits;
        __builtin_memcpy(&depth_bits, &depth, sizeof depth_bits);
        keys[first + found++] = {depth_bits, static_cast<uint32_t>(i + k)};
      }
    }
    group_visible[group] = found;
  });

  // Close the gaps between the groups' keys; they stay in order of the Gaussians.
  int visible = 0;
  for (int group = 0; group < groups; ++group) {
    const int found = group_visible[group];
    if (visible != group * kGroup) __builtin_memmove(keys + visible, keys + group * kGroup, found * sizeof(Key));
    visible += found;
  }
  frame.visible = visible;
}

// Asks for the cache lines of Gaussians i.. in every plane: too many streams for the hardware to foresee.
template <class T> GNS_INLINE void prefetch_planes(const T* planes, int count, size_t n, int i) {
  for (int k = 0; k < count; ++k) __builtin_prefetch(planes + k * n + i);
}

template <class T>
void project_backward(Frame<T>& frame, const Parameters<T>& in, const Gradients<T>& out) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const PinholeCamera<T>& camera = frame.camera;
  const size_t n = in.count;
  const int groups = (in.count + kGroup - 1) / kGroup;
  const int rest_planes = 3 * ((in.sh_degree + 1) * (in.sh_degree + 1) - 1);
  const T scale_x = T(0.5) * T(camera.width), scale_y = T(0.5) * T(camera.height);

  parallel_for(groups, [&](int group) {
    const int first = group * kGroup, last = first + kGroup < in.count ? first + kGroup : in.count;
    for (int i = first; i < last; i += W) {
      const int lanes = last - i < W ? last - i : W;
      if (i + W < last) {
        prefetch_planes(in.sh_rest, rest_planes, n, i + W);
        prefetch_planes(out.sh_rest, rest_planes, n, i + W);
      }
      for (int k = i + W; k < i + 2 * W && k < last; ++k)
        if (frame.slot_count[k]) __builtin_prefetch(frame.packets.get() + size_t(frame.slot_begin[k]) * kPacket);
      // Sums over each Gaussian's instances, near tile to far, always in the same order.
      T sums[kPacket][W] = {};
      bool any_drawn = false;
      for (int k = 0; k < lanes; ++k) {
        const uint32_t slots = frame.slot_count[i + k];
        if (!slots) continue;
        any_drawn = true;
        const T* packet = frame.packets.get() + size_t(frame.slot_begin[i + k]) * kPacket;
        T sum[kPacket];
        for (int j = 0; j < kPacket; ++j) sum[j] = packet[j];
        for (uint32_t s = 1; s < slots; ++s) {
          packet += kPacket;
          for (int j = 0; j < kPacket; ++j) sum[j] += packet[j];
        }
        const Splat<T>& splat = frame.splats[i + k];
        // Colours are clamped at zero from below, without gradient there.
        if (splat.red <= 0) sum[0] = 0;
        if (splat.green <= 0) sum[1] = 0;
        if (splat.blue <= 0) sum[2] = 0;
        for (int j = 0; j < kPacket; ++j) sums[j][k] = sum[j];
      }
      if (out.abs_mean2d) {
        store_first(V::load(sums[6]) * V(scale_x), out.abs_mean2d + i, lanes);
        store_first(V::load(sums[7]) * V(scale_y), out.abs_mean2d + n + i, lanes);
      }
      if (out.mean2d) {
        store_first(V::load(sums[4]) * V(-scale_x), out.mean2d + i, lanes);
        store_first(V::load(sums[5]) * V(-scale_y), out.mean2d + n + i, lanes);
      }
      if (!any_drawn) continue;

      // Lanes that are not drawn may hold anything, NaN included: none of it may reach the gradients.
      T drawn_lane[W];
      for (int k = 0; k < W; ++k) drawn_lane[k] = k < lanes && frame.slot_count[i + k] ? T(1) : T(0);
      const Mask<T> drawn = V::load(drawn_lane) > V(T(0));
      auto add = [&](T* gradient, V value) {
        store_first(load_first(gradient + i, lanes) + zero_unless(drawn, value), gradient + i, lanes);
      };

      const Inputs<T> raw = load_geometry(in, i, lanes);
      const Projection<V> p = gns::project<V, T>(camera, raw.mean, raw.log_scale, raw.quat);
      const V mean2d[2] = {-V::load(sums[4]), -V::load(sums[5])};
      const V half(T(0.5));
      const V covariance[3] = {half * V::load(sums[8]), half * V::load(sums[9]), half * V::load(sums[10])};
      Vec3<V> mean;
      V log_scale[3], quat[4];
      gns::project_backward<V, T>(camera, p, mean2d, covariance, mean, log_scale, quat);
      for (int k = 0; k < 3; ++k) add(out.log_scales + k * n, log_scale[k]);
      for (int k = 0; k < 4; ++k) add(out.quats + k * n, quat[k]);
      const Opacity<V> opacity = activate_opacity(load_first(in.opacity_logits + i, lanes), T(0));
      add(out.opacity_logits, V::load(sums[3]) * (V(T(1)) - opacity.value));

      const V colour[3] = {V::load(sums[0]), V::load(sums[1]), V::load(sums[2])};
      for (int c = 0; c < 3; ++c) add(out.sh_dc + c * n, V(T(kSH0)) * colour[c]);
      if (in.sh_degree > 0) {
        V inverse, basis[15], weight[15];
        const Vec3<V> d = view_direction(camera, raw.mean, inverse);
        sh_basis(d, in.sh_degree, basis, T(0));
        const int terms = (in.sh_degree + 1) * (in.sh_degree + 1) - 1;
        for (int k = 0; k < terms; ++k) {
          weight[k] = V(T(0));
          for (int c = 0; c < 3; ++c) {
            const size_t plane = size_t(3 * k + c) * n;
            weight[k] = fma(colour[c], load_first(in.sh_rest + plane + i, lanes), weight[k]);
            add(out.sh_rest + plane, basis[k] * colour[c]);
          }
        }
        const Vec3<V> g = sh_basis_backward(d, in.sh_degree, weight, T(0));
        const V along = fma(g.x, d.x, fma(g.y, d.y, g.z * d.z));  // normalising takes out what lies along d
        mean.x = fma(fnma(d.x, along, g.x), inverse, mean.x);
        mean.y = fma(fnma(d.y, along, g.y), inverse, mean.y);
        mean.z = fma(fnma(d.z, along, g.z), inverse, mean.z);
      }
      add(out.means, mean.x);
      add(out.means + n, mean.y);
      add(out.means + 2 * n, mean.z);
    }
  });
}

#define GNS_INSTANTIATE(T)                                                       \
  template void project<T>(Frame<T>&, const Parameters<T>&, bool, T*);           \
  template void project_backward<T>(Frame<T>&, const Parameters<T>&, const Gradients<T>&);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
