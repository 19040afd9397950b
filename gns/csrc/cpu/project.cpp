// From raw parameters to splats on the screen, a register of Gaussians at a time; and back.
#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

template <class T> GNS_INLINE RawGeometry<Vec<T>> load_geometry(const Parameters<T>& in, int i, int lanes) {
  const size_t n = in.count;
  RawGeometry<Vec<T>> raw;
  raw.mean = {load_first(in.means + i, lanes), load_first(in.means + n + i, lanes),
              load_first(in.means + 2 * n + i, lanes)};
  for (int k = 0; k < 3; ++k) raw.log_scale[k] = load_first(in.log_scales + k * n + i, lanes);
  for (int k = 0; k < 4; ++k) raw.quat[k] = load_first(in.quats + k * n + i, lanes);
  return raw;
}

// Returns whether all coefficients were finite.
template <class T>
GNS_INLINE Mask<T> load_colour(const Parameters<T>& in, const PinholeCamera<T>& camera, const Vec3<Vec<T>>& mean, int i,
                               int lanes, Vec<T> (&colour)[3]) {
  const size_t n = in.count;
  auto constant = [&](int c) GNS_INLINE_LAMBDA { return load_first(in.sh_dc + c * n + i, lanes); };
  auto coefficient = [&](int k, int c) GNS_INLINE_LAMBDA {
    return load_first(in.sh_rest + (3 * k + c) * n + i, lanes);
  };
  return evaluate_colour(camera, mean, in.sh_degree, {constant(0), constant(1), constant(2)}, coefficient, colour);
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
      const RawGeometry<V> raw = load_geometry(in, i, lanes);
      const Projection<V> p = gns::project(camera, raw);
      const V logit = load_first(in.opacity_logits + i, lanes);
      const Opacity<V> opacity = seen_opacity(camera, p, logit);
      const V level = cutoff_level(opacity);
      const PixelBox<V> pixels = pixel_box(camera, p, level);
      Mask<T> drawn = is_drawn(raw, logit, p, level, pixels);
      V colour[3] = {V(T(0)), V(T(0)), V(T(0))};
      if (any(drawn) && with_colour) drawn = drawn & load_colour(in, camera, raw.mean, i, lanes, colour);
      const unsigned drawn_lanes = bits(drawn) & ((1u << lanes) - 1u);
      if (radii) {
        T lane[W];
        radius(p, level).store(lane);
        for (int k = 0; k < lanes; ++k) radii[i + k] = (drawn_lanes >> k & 1) ? lane[k] : T(0);
      }
      for (int k = 0; k < lanes; ++k) slot_count[i + k] = 0;
      if (!drawn_lanes) continue;

      const Conic<V> conic = conic_of(p);
      const Exponent<V> exponent = exponent_of(conic);
      const Ellipse<V> ellipse = ellipse_of(p, level);
      enum { X, Y, QA, QB, QC, QL, RED, GREEN, BLUE, CA, CB, CC, HALF, LEVEL, INV_A, SLOPE, RESIDUAL, TOP, DEPTH, FIELDS };
      T field[FIELDS][W];
      ellipse.x.store(field[X]);
      ellipse.y.store(field[Y]);
      exponent.qa.store(field[QA]);
      exponent.qb.store(field[QB]);
      exponent.qc.store(field[QC]);
      opacity.log2_value.store(field[QL]);
      colour[0].store(field[RED]);
      colour[1].store(field[GREEN]);
      colour[2].store(field[BLUE]);
      conic.a.store(field[CA]);
      conic.b.store(field[CB]);
      conic.c.store(field[CC]);
      ellipse.half_width.store(field[HALF]);
      ellipse.level.store(field[LEVEL]);
      ellipse.inverse_a.store(field[INV_A]);
      ellipse.slope.store(field[SLOPE]);
      ellipse.residual.store(field[RESIDUAL]);
      ellipse.x_top.store(field[TOP]);
      p.view.z.store(field[DEPTH]);
      int32_t box[4][W];
      const V zero(T(0));
      store_int(select(drawn, pixels.x0, zero), box[0]);
      store_int(select(drawn, pixels.x1, zero), box[1]);
      store_int(select(drawn, pixels.y0, zero), box[2]);
      store_int(select(drawn, pixels.y1, zero), box[3]);

      for (unsigned rest = drawn_lanes; rest; rest &= rest - 1) {
        const int k = __builtin_ctz(rest);
        splats[i + k] = {field[X][k],   field[Y][k],    field[QA][k],
                         field[QB][k],  field[QC][k],   field[QL][k],
                         field[RED][k], field[GREEN][k], field[BLUE][k],
                         {field[CA][k], field[CB][k],   field[CC][k]},
                         field[DEPTH][k], {}};
        footprints[i + k] = {box[0][k], box[1][k], box[2][k], box[3][k],
                             {field[X][k], field[Y][k], field[HALF][k], field[LEVEL][k], field[INV_A][k],
                              field[SLOPE][k], field[RESIDUAL][k], field[TOP][k]}};
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

// The summed packets of a register of Gaussians.
template <class T> struct Sums {
  T lanes[kPacket][Vec<T>::width];
  GNS_INLINE Vec<T> operator[](int k) const { return Vec<T>::load(lanes[k]); }
};

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
      Sums<T> sums = {};
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
        sum[0] = clamp_backward(splat.red, sum[0]);
        sum[1] = clamp_backward(splat.green, sum[1]);
        sum[2] = clamp_backward(splat.blue, sum[2]);
        for (int j = 0; j < kPacket; ++j) sums.lanes[j][k] = sum[j];
      }
      if (out.abs_mean2d) {
        store_first(sums[6] * V(scale_x), out.abs_mean2d + i, lanes);
        store_first(sums[7] * V(scale_y), out.abs_mean2d + n + i, lanes);
      }
      if (out.mean2d) {
        store_first(sums[4] * V(-scale_x), out.mean2d + i, lanes);
        store_first(sums[5] * V(-scale_y), out.mean2d + n + i, lanes);
      }
      if (!any_drawn) continue;

      // Lanes that are not drawn may hold anything, NaN included: none of it may reach the gradients.
      T drawn_lane[W];
      for (int k = 0; k < W; ++k) drawn_lane[k] = k < lanes && frame.slot_count[i + k] ? T(1) : T(0);
      const Mask<T> drawn = V::load(drawn_lane) > V(T(0));
      auto add = [&](T* gradient, V value) {
        store_first(load_first(gradient + i, lanes) + zero_unless(drawn, value), gradient + i, lanes);
      };

      const RawGeometry<V> raw = load_geometry(in, i, lanes);
      const Projection<V> p = gns::project(camera, raw);
      RawGeometry<V> gradient = gns::project_backward(camera, p, screen_gradient<V>(sums));
      for (int k = 0; k < 3; ++k) add(out.log_scales + k * n, gradient.log_scale[k]);
      for (int k = 0; k < 4; ++k) add(out.quats + k * n, gradient.quat[k]);
      const Opacity<V> opacity = activate_opacity(load_first(in.opacity_logits + i, lanes));
      add(out.opacity_logits, opacity_backward(opacity, sums[3]));

      const V colour[3] = {sums[0], sums[1], sums[2]};
      for (int c = 0; c < 3; ++c) add(out.sh_dc + c * n, constant_backward(colour[c]));
      if (in.sh_degree > 0) {
        V inverse, basis[15], by_basis[15];
        const Vec3<V> d = view_direction(camera, raw.mean, inverse);
        sh_basis(d, in.sh_degree, basis);
        const int terms = (in.sh_degree + 1) * (in.sh_degree + 1) - 1;
        for (int k = 0; k < terms; ++k) {
          by_basis[k] = V(T(0));
          for (int c = 0; c < 3; ++c) {
            const size_t plane = size_t(3 * k + c) * n;
            const V coefficient = load_first(in.sh_rest + plane + i, lanes);
            add(out.sh_rest + plane, coefficient_backward(colour[c], coefficient, basis[k], by_basis[k]));
          }
        }
        view_direction_backward(d, inverse, sh_basis_backward(d, in.sh_degree, by_basis), gradient.mean);
      }
      add(out.means, gradient.mean.x);
      add(out.means + n, gradient.mean.y);
      add(out.means + 2 * n, gradient.mean.z);
    }
  });
}

#define GNS_INSTANTIATE(T)                                                       \
  template void project<T>(Frame<T>&, const Parameters<T>&, bool, T*);           \
  template void project_backward<T>(Frame<T>&, const Parameters<T>&, const Gradients<T>&);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
