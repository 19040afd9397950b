// Every formula of the renderer, once, over the `R` of a backend: see backend.h.
//
// 3DGS is Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2023.
// Notation: Σ = R S Sᵀ Rᵀ (Gaussian in the world, 3DGS eq. 6), M = W R S (its axes in the camera), A = J M (its axes on
// the screen), Σ₂ = A Aᵀ + 0.3 I (3DGS eq. 5, after Zwicker et al., EWA Splatting, 2002), o the opacity.
#pragma once

#include "backend.h"

namespace gns {

constexpr int kTile = 16;                 // pixels, both ways
constexpr double kNear = 0.2;             // Gaussians nearer than this are not drawn
constexpr double kDilation = 0.3;         // pixels², added to the diagonal of every screen covariance
constexpr double kFrustumMargin = 1.3;    // x/z and y/z are clamped to this multiple of tan(fov/2) in the Jacobian
// 3DGS, appendix C:
constexpr double kLog2MinAlpha = -7.99435343685885793770;  // log2(1/255): contributions with a smaller α are skipped
constexpr double kMaxAlpha = 0.99;
constexpr double kMinTransmittance = 1e-4;  // a pixel stops before it would fall below

// A pinhole camera in the precision of the kernel. Rows of W first; limits are those of the Jacobian's clamp. An
// antialiased one weakens Gaussians by what its pixels widen them, see log2_coverage().
template <class T> struct PinholeCamera {
  int width, height;
  T fx, fy, cx, cy;
  T rotation[9], translation[3];
  T center[3];
  T limit_x, limit_y;
  bool antialiased;
};

// limit_x from width and fx, limit_y from height and fy.
GNS_MATH double frustum_limit(int pixels, double focal) { return kFrustumMargin * 0.5 * pixels / focal; }

template <class R> struct Vec3 { R x, y, z; };
template <class R> struct Mat3 { R m[3][3]; };

// ---------------------------------------------------------------------------------------------------------------------
// Rotation and shape

// Quaternion (w, x, y, z) scaled to length one. A zero quaternion stays zero, which to_rotation() reads as identity.
template <class R> struct UnitQuaternion { R w, x, y, z, inverse_length; };

template <class R> GNS_MATH UnitQuaternion<R> normalise(R w, R x, R y, R z) {
  using T = Scalar<R>;
  const R length = sqrt(fma(w, w, fma(x, x, fma(y, y, z * z))));
  const R inverse = R(T(1)) / max(R(T(1e-12)), length);
  return {w * inverse, x * inverse, y * inverse, z * inverse, inverse};
}

template <class R> GNS_MATH Mat3<R> to_rotation(const UnitQuaternion<R>& q) {
  using T = Scalar<R>;
  const R one(T(1)), two(T(2));
  const R xx = q.x * q.x, yy = q.y * q.y, zz = q.z * q.z;
  const R xy = q.x * q.y, xz = q.x * q.z, yz = q.y * q.z;
  const R wx = q.w * q.x, wy = q.w * q.y, wz = q.w * q.z;
  return {{{fnma(two, yy + zz, one), two * (xy - wz), two * (xz + wy)},
           {two * (xy + wz), fnma(two, xx + zz, one), two * (yz - wx)},
           {two * (xz - wy), two * (yz + wx), fnma(two, xx + yy, one)}}};
}

// Gradient of the raw quaternion from D = ∂L/∂R.
template <class R>
GNS_MATH void rotation_backward(const UnitQuaternion<R>& q, const Mat3<R>& gradient, R (&out)[4]) {
  using T = Scalar<R>;
  const auto& D = gradient.m;
  const R two(T(2));
  const R a = D[1][0] - D[0][1], b = D[0][2] - D[2][0], c = D[2][1] - D[1][2];
  const R e = D[0][1] + D[1][0], f = D[0][2] + D[2][0], g = D[1][2] + D[2][1];
  const R gw = two * fma(q.z, a, fma(q.y, b, q.x * c));
  const R gx = two * fma(q.y, e, fma(q.z, f, fma(q.w, c, -(two * q.x * (D[1][1] + D[2][2])))));
  const R gy = two * fma(q.x, e, fma(q.w, b, fma(q.z, g, -(two * q.y * (D[0][0] + D[2][2])))));
  const R gz = two * fma(q.w, a, fma(q.x, f, fma(q.y, g, -(two * q.z * (D[0][0] + D[1][1])))));
  const R along = fma(q.w, gw, fma(q.x, gx, fma(q.y, gy, q.z * gz)));
  out[0] = fnma(q.w, along, gw) * q.inverse_length;
  out[1] = fnma(q.x, along, gx) * q.inverse_length;
  out[2] = fnma(q.y, along, gy) * q.inverse_length;
  out[3] = fnma(q.z, along, gz) * q.inverse_length;
}

// ---------------------------------------------------------------------------------------------------------------------
// Projection

// What of a Gaussian's raw parameters decides where and how large it is; or the gradient of a loss by these.
template <class R> struct RawGeometry {
  Vec3<R> mean;
  R log_scale[3], quat[4];
};

// One Gaussian on the screen, with what its backward pass needs again.
template <class R> struct Projection {
  Vec3<R> view;             // mean in the camera
  R inverse_z;
  R slope_x, slope_y;       // x/z and y/z
  R clamped_x, clamped_y;   // the same, clamped: the Jacobian's
  R u, v;                   // mean in pixels
  R scale[3];
  UnitQuaternion<R> quaternion;
  Mat3<R> rotation;         // R, object to world
  Mat3<R> axes;             // M = W R S
  R screen[2][3];           // A = J M
  R a, b, c;                // Σ₂ = [[a, b], [b, c]], dilated
  R determinant;
  R sharp_determinant;      // of A Aᵀ, before the dilation
};

template <class R, class T>
GNS_MATH Projection<R> project(const PinholeCamera<T>& camera, const RawGeometry<R>& raw) {
  const auto* W = camera.rotation;
  const Vec3<R>& mean = raw.mean;
  Projection<R> p;
  p.view.x = fma(R(W[0]), mean.x, fma(R(W[1]), mean.y, fma(R(W[2]), mean.z, R(camera.translation[0]))));
  p.view.y = fma(R(W[3]), mean.x, fma(R(W[4]), mean.y, fma(R(W[5]), mean.z, R(camera.translation[1]))));
  p.view.z = fma(R(W[6]), mean.x, fma(R(W[7]), mean.y, fma(R(W[8]), mean.z, R(camera.translation[2]))));
  p.inverse_z = R(T(1)) / p.view.z;
  p.slope_x = p.view.x * p.inverse_z;
  p.slope_y = p.view.y * p.inverse_z;
  p.clamped_x = min(R(camera.limit_x), max(R(-camera.limit_x), p.slope_x));
  p.clamped_y = min(R(camera.limit_y), max(R(-camera.limit_y), p.slope_y));
  p.u = fma(R(camera.fx), p.slope_x, R(camera.cx));
  p.v = fma(R(camera.fy), p.slope_y, R(camera.cy));

  p.quaternion = normalise(raw.quat[0], raw.quat[1], raw.quat[2], raw.quat[3]);
  p.rotation = to_rotation(p.quaternion);
  for (int k = 0; k < 3; ++k) {
    // Held to what a float can hold; a Gaussian that large overflows below and is not drawn.
    p.scale[k] = exp2(min(R(T(120)), max(R(T(-120)), raw.log_scale[k] * R(T(kLog2E)))));
    for (int i = 0; i < 3; ++i) {
      p.axes.m[i][k] = fma(R(W[3 * i]), p.rotation.m[0][k],
                           fma(R(W[3 * i + 1]), p.rotation.m[1][k], R(W[3 * i + 2]) * p.rotation.m[2][k])) *
                       p.scale[k];
    }
  }
  const R jx = R(camera.fx) * p.inverse_z, jy = R(camera.fy) * p.inverse_z;
  for (int k = 0; k < 3; ++k) {
    p.screen[0][k] = jx * fnma(p.clamped_x, p.axes.m[2][k], p.axes.m[0][k]);
    p.screen[1][k] = jy * fnma(p.clamped_y, p.axes.m[2][k], p.axes.m[1][k]);
  }
  const auto& A = p.screen;
  const R dilation{T(kDilation)};
  const R xx = fma(A[0][0], A[0][0], fma(A[0][1], A[0][1], A[0][2] * A[0][2]));
  const R yy = fma(A[1][0], A[1][0], fma(A[1][1], A[1][1], A[1][2] * A[1][2]));
  p.b = fma(A[0][0], A[1][0], fma(A[0][1], A[1][1], A[0][2] * A[1][2]));
  p.a = xx + dilation;
  p.c = yy + dilation;
  // det(A Aᵀ + h I) = |A₀ × A₁|² + h (|A₀|² + |A₁|²) + h²: no cancellation, where a c − b² loses a needle's width.
  const R n0 = fnma(A[0][2], A[1][1], A[0][1] * A[1][2]);
  const R n1 = fnma(A[0][0], A[1][2], A[0][2] * A[1][0]);
  const R n2 = fnma(A[0][1], A[1][0], A[0][0] * A[1][1]);
  p.determinant = fma(n0, n0, fma(n1, n1, fma(n2, n2, fma(dilation, xx + yy, dilation * dilation))));
  p.sharp_determinant = fma(n0, n0, fma(n1, n1, n2 * n2));
  return p;
}

// Opacity and its binary logarithm, from the logit.
template <class R> struct Opacity { R value, log2_value; };

template <class R> GNS_MATH Opacity<R> activate_opacity(R logit) {
  using T = Scalar<R>;
  // e^−ℓ, with ℓ held to where it fits a float; beyond, opacity is 0 or 1 to the last bit anyway.
  const R e = exp2(min(R(T(120)), max(R(T(-120)), -(logit * R(T(kLog2E))))));
  const R sum = R(T(1)) + e;
  return {R(T(1)) / sum, -log2(sum)};
}

// Gradient of the logit ℓ from PixelSums' h: the derivative of o·G by ℓ is o·G·(1 − o).
template <class R> GNS_MATH R opacity_backward(const Opacity<R>& opacity, R h_sum) {
  return h_sum * (R(Scalar<R>(1)) - opacity.value);
}

// The share ρ of a Gaussian that is left when the pixels' width is added to it, √(det A Aᵀ / det Σ₂), as a binary
// logarithm: an antialiased camera draws o·ρ instead of o, so that what a Gaussian adds to the picture does not grow with
// the dilation (the 2D filter of Mip-Splatting, Yu et al. 2024, with the dilation of 3DGS). A Gaussian is drawn only where
// ρ ≥ 1/255, which keeps its derivative from blowing up.
template <class R> GNS_MATH R log2_coverage(const Projection<R>& p) {
  using T = Scalar<R>;
  return R(T(0.5)) * (log2(max(R(T(1e-30)), p.sharp_determinant)) - log2(p.determinant));
}

// Opacity as the camera sees it: `value` is still that of the logit.
template <class R, class T>
GNS_MATH Opacity<R> seen_opacity(const PinholeCamera<T>& camera, const Projection<R>& p, R logit) {
  Opacity<R> opacity = activate_opacity(logit);
  if (camera.antialiased) opacity.log2_value = opacity.log2_value + log2_coverage(p);
  return opacity;
}

// What reaches Σ₂ and A through ρ, from g = ∂L/∂ln(α) = ∂L/∂ln(ρ): ½g Σ₂⁻¹, to be subtracted, and with n = A₀ × A₁, so
// that ln det A Aᵀ = ln |n|², g (A₁ × n)/|n|² and g (n × A₀)/|n|², to be added.
template <class R> struct CoverageGradient { R covariance[3], screen[2][3]; };

template <class R, class T>
GNS_MATH CoverageGradient<R> coverage_backward(const PinholeCamera<T>& camera, const Projection<R>& p, R g) {
  const R zero(T(0));
  CoverageGradient<R> out = {{zero, zero, zero}, {{zero, zero, zero}, {zero, zero, zero}}};
  if (!camera.antialiased) return out;
  const auto& A = p.screen;
  const R half = R(T(0.5)) * g / p.determinant, share = g / p.sharp_determinant;
  out.covariance[0] = half * p.c;
  out.covariance[1] = -(half * p.b);
  out.covariance[2] = half * p.a;
  const R n[3] = {fnma(A[0][2], A[1][1], A[0][1] * A[1][2]), fnma(A[0][0], A[1][2], A[0][2] * A[1][0]),
                  fnma(A[0][1], A[1][0], A[0][0] * A[1][1])};
  for (int k = 0; k < 3; ++k) {
    const int i = (k + 1) % 3, j = (k + 2) % 3;
    out.screen[0][k] = share * fnma(A[1][j], n[i], A[1][i] * n[j]);
    out.screen[1][k] = share * fnma(n[j], A[0][i], n[i] * A[0][j]);
  }
  return out;
}

// What reaches a Gaussian from the screen: ∂L/∂(u, v), and (∂L/∂a, half of ∂L/∂b, ∂L/∂c), that is the entries of the
// symmetric matrix ∂L/∂Σ₂; ∂L/∂(1/z); and ∂L/∂ln(α), which an antialiased camera passes on to the shape.
template <class R> struct ScreenGradient { R mean2d[2], covariance[3], inverse_depth, log_alpha; };

// Gradient of the raw geometry. Where the Jacobian's slope was clamped, x·clamp is held constant (as published).
template <class R, class T>
GNS_MATH RawGeometry<R> project_backward(const PinholeCamera<T>& camera, const Projection<R>& p,
                                         const ScreenGradient<R>& screen) {
  const auto* W = camera.rotation;
  const auto& mean2d = screen.mean2d;
  const auto& A = p.screen;
  const R two(T(2)), zero(T(0));
  const CoverageGradient<R> coverage = coverage_backward(camera, p, screen.log_alpha);
  R covariance[3];
  for (int k = 0; k < 3; ++k) covariance[k] = screen.covariance[k] - coverage.covariance[k];
  const R jx = R(camera.fx) * p.inverse_z, jy = R(camera.fy) * p.inverse_z;

  Mat3<R> axes;  // ∂L/∂M
  R jx_sum = zero, jy_sum = zero, slope_x = zero, slope_y = zero;
  for (int k = 0; k < 3; ++k) {
    // ∂L/∂A = 2 ∂L/∂Σ₂ A
    const R g0 = fma(two, fma(covariance[0], A[0][k], covariance[1] * A[1][k]), coverage.screen[0][k]);
    const R g1 = fma(two, fma(covariance[1], A[0][k], covariance[2] * A[1][k]), coverage.screen[1][k]);
    axes.m[0][k] = jx * g0;
    axes.m[1][k] = jy * g1;
    axes.m[2][k] = -fma(axes.m[0][k], p.clamped_x, axes.m[1][k] * p.clamped_y);
    jx_sum = fma(g0, A[0][k], jx_sum);  // jx ∂L/∂jx
    jy_sum = fma(g1, A[1][k], jy_sum);
    slope_x = fnma(axes.m[0][k], p.axes.m[2][k], slope_x);  // ∂L/∂clamped_x
    slope_y = fnma(axes.m[1][k], p.axes.m[2][k], slope_y);
  }
  const R inside_x = select(abs(p.slope_x) <= R(camera.limit_x), slope_x, zero);
  const R inside_y = select(abs(p.slope_y) <= R(camera.limit_y), slope_y, zero);
  Vec3<R> view;
  view.x = fma(jx, mean2d[0], inside_x * p.inverse_z);
  view.y = fma(jy, mean2d[1], inside_y * p.inverse_z);
  const R through_mean = fma(jx * p.slope_x, mean2d[0], jy * p.slope_y * mean2d[1]);
  const R through_jacobian =
      fma(slope_x, p.clamped_x, fma(slope_y, p.clamped_y, jx_sum + jy_sum)) * p.inverse_z;
  view.z = -fma(screen.inverse_depth * p.inverse_z, p.inverse_z, through_mean + through_jacobian);
  RawGeometry<R> out;
  out.mean.x = fma(R(W[0]), view.x, fma(R(W[3]), view.y, R(W[6]) * view.z));
  out.mean.y = fma(R(W[1]), view.x, fma(R(W[4]), view.y, R(W[7]) * view.z));
  out.mean.z = fma(R(W[2]), view.x, fma(R(W[5]), view.y, R(W[8]) * view.z));

  Mat3<R> rotation;  // ∂L/∂R
  for (int k = 0; k < 3; ++k) {
    R scale = zero;
    for (int j = 0; j < 3; ++j) {
      const R n = fma(R(W[j]), axes.m[0][k], fma(R(W[3 + j]), axes.m[1][k], R(W[6 + j]) * axes.m[2][k]));
      scale = fma(n, p.rotation.m[j][k], scale);
      rotation.m[j][k] = n * p.scale[k];
    }
    out.log_scale[k] = scale * p.scale[k];
  }
  rotation_backward(p.quaternion, rotation, out.quat);
  return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Footprint: what is drawn, and where

// A comparison that NaN and the infinities fail, and anything a picture could be made of passes.
template <class T> constexpr double kLargest = sizeof(T) == 4 ? 1e37 : 1e300;
template <class R> GNS_MATH MaskOf<R> finite(R x) { return abs(x) < R(Scalar<R>(kLargest<Scalar<R>>)); }

// Level of the ellipse on which α = o·exp(−½ dᵀΣ₂⁻¹d) is 1/255: dᵀΣ₂⁻¹d = 2 ln(255·o). Negative where o is below 1/255.
template <class R> GNS_MATH R cutoff_level(const Opacity<R>& opacity) {
  using T = Scalar<R>;
  return R(T(2 * kLn2)) * (opacity.log2_value - R(T(kLog2MinAlpha)));
}

// Pixels whose centres lie in the box around that ellipse, clipped to the image: whole numbers, inclusive; none where
// the first lies beyond the last.
template <class R> struct PixelBox { R x0, x1, y0, y1; };

template <class R, class T>
GNS_MATH PixelBox<R> pixel_box(const PinholeCamera<T>& camera, const Projection<R>& p, R level) {
  const R half_x = sqrt(level * p.a), half_y = sqrt(level * p.c);  // half extents, in pixels
  const R half(T(0.5)), zero(T(0)), one(T(1)), width{T(camera.width)}, height{T(camera.height)};
  PixelBox<R> box;
  box.x0 = max(ceil(p.u - half_x - half), zero);
  box.x1 = min(floor(p.u + half_x - half), width - one);
  box.y0 = max(ceil(p.v - half_y - half), zero);
  box.y1 = min(floor(p.v + half_y - half), height - one);
  return box;
}

// A chain of comparisons that are all false for NaN: a Gaussian with a broken parameter is simply not drawn.
template <class R>
GNS_MATH MaskOf<R> is_drawn(const RawGeometry<R>& raw, R logit, const Projection<R>& p, R level,
                            const PixelBox<R>& box) {
  using T = Scalar<R>;
  const R zero(T(0));
  return (p.view.z > R(T(kNear))) & finite(p.view.z) & finite(p.u) & finite(p.v) &     // in front of the camera
         finite(raw.log_scale[0]) & finite(raw.log_scale[1]) & finite(raw.log_scale[2]) &  // of some size
         (p.determinant > zero) & finite(p.determinant) & finite(p.a) & finite(p.c) &
         (level >= zero) & finite(logit) &                                                 // α reaches 1/255
         (box.x0 <= box.x1) & (box.y0 <= box.y1);                                          // within the image
}

// Longer half axis of the ellipse, in pixels: √(level·λ) for the larger eigenvalue λ of Σ₂.
template <class R> GNS_MATH R radius(const Projection<R>& p, R level) {
  const R half(Scalar<R>(0.5));
  const R middle = half * (p.a + p.c), spread = half * (p.a - p.c);
  return sqrt(level * (middle + sqrt(fma(spread, spread, p.b * p.b))));
}

// The ellipse itself, about the mean at (x, y). At dx beside the mean it spans
// dy = slope·dx ± √(residual·(level − dx²·inverse_a)), the roots of dᵀΣ₂⁻¹d = level; it is highest at dx = x_top.
template <class R> struct Ellipse { R x, y, half_width, level, inverse_a, slope, residual, x_top; };

template <class R> GNS_MATH Ellipse<R> ellipse_of(const Projection<R>& p, R level) {
  using T = Scalar<R>;
  // A little more than the ellipse, so that rounding can only add pixels to look at.
  const R safe_level = fma(level, R(T(1 + 1e-5)), R(T(1e-5)));
  const R inverse_a = R(T(1)) / p.a;
  Ellipse<R> e;
  e.x = p.u;
  e.y = p.v;
  e.half_width = sqrt(safe_level * p.a);
  e.level = safe_level;
  e.inverse_a = inverse_a;
  e.slope = p.b * inverse_a;
  e.residual = p.determinant * inverse_a;
  e.x_top = p.b * sqrt(safe_level / p.c);
  return e;
}

// The part of a strip of pixel columns that an ellipse spans, as offsets from the mean; none where low > high. `left`
// is the offset of the centre of the strip's first column.
template <class R> struct Strip { R low, high; };

template <class R, class T> GNS_MATH Strip<R> strip_met(const Ellipse<T>& e, R left, int columns) {
  const R right = left + R(T(columns - 1));
  return {max(left, R(-e.half_width)), min(right, R(e.half_width))};
}

// Half of what the ellipse spans at dx.
template <class R, class T> GNS_MATH R reach(const Ellipse<T>& e, R dx) {
  return sqrt(max(R(T(0)), fnma(dx * dx, R(e.inverse_a), R(e.level)) * R(e.residual)));
}

// Pixel rows, inclusive, that the ellipse meets in the strip, from its highest and lowest point there: whole numbers,
// none where first > last. y0 and y1 are of the Gaussian's pixel box.
template <class R> struct RowSpan { R first, last; };

template <class R, class T> GNS_MATH RowSpan<R> rows_met(const Ellipse<T>& e, int y0, int y1, const Strip<R>& strip) {
  constexpr T kSlack = T(1.0 / 512);  // pixels; far more than rounding can move a boundary
  const R x_top = min(max(R(e.x_top), strip.low), strip.high), x_bottom = min(max(R(-e.x_top), strip.low), strip.high);
  const R bottom = fma(R(e.slope), x_bottom, R(e.y)) - reach(e, x_bottom);
  const R top = fma(R(e.slope), x_top, R(e.y)) + reach(e, x_top);
  return {max(ceil(bottom - R(T(0.5) + kSlack)), R(T(y0))), min(floor(top - R(T(0.5) - kSlack)), R(T(y1)))};
}

// ---------------------------------------------------------------------------------------------------------------------
// Spherical harmonics, real, in the order and with the signs of the 3DGS ecosystem.

constexpr double kSH0 = 0.28209479177387814;
constexpr double kSH1 = 0.4886025119029199;
constexpr double kSH2[5] = {1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792,
                            0.5462742152960396};
constexpr double kSH3[7] = {-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
                            -0.4570457994644658, 1.445305721320277, -0.5900435899266435};

// Basis values of bands 1..degree in direction d, basis[0] being band 1's first.
template <class R> GNS_MATH void sh_basis(const Vec3<R>& d, int degree, R (&basis)[15]) {
  using T = Scalar<R>;
  const R x = d.x, y = d.y, z = d.z;
  basis[0] = R(T(-kSH1)) * y;
  basis[1] = R(T(kSH1)) * z;
  basis[2] = R(T(-kSH1)) * x;
  if (degree < 2) return;
  const R xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  basis[3] = R(T(kSH2[0])) * xy;
  basis[4] = R(T(kSH2[1])) * yz;
  basis[5] = R(T(kSH2[2])) * (zz + zz - xx - yy);
  basis[6] = R(T(kSH2[3])) * xz;
  basis[7] = R(T(kSH2[4])) * (xx - yy);
  if (degree < 3) return;
  const R three(T(3)), four(T(4));
  basis[8] = R(T(kSH3[0])) * y * (three * xx - yy);
  basis[9] = R(T(kSH3[1])) * xy * z;
  basis[10] = R(T(kSH3[2])) * y * (four * zz - xx - yy);
  basis[11] = R(T(kSH3[3])) * z * (zz + zz - three * xx - three * yy);
  basis[12] = R(T(kSH3[4])) * x * (four * zz - xx - yy);
  basis[13] = R(T(kSH3[5])) * z * (xx - yy);
  basis[14] = R(T(kSH3[6])) * x * (xx - three * yy);
}

// ∂L/∂d from weight[k] = ∂L/∂basis[k].
template <class R> GNS_MATH Vec3<R> sh_basis_backward(const Vec3<R>& d, int degree, const R (&weight)[15]) {
  using T = Scalar<R>;
  const R x = d.x, y = d.y, z = d.z;
  Vec3<R> g{R(T(-kSH1)) * weight[2], R(T(-kSH1)) * weight[0], R(T(kSH1)) * weight[1]};
  if (degree < 2) return g;
  const R two(T(2)), four(T(4));
  const R w3 = R(T(kSH2[0])) * weight[3], w4 = R(T(kSH2[1])) * weight[4], w5 = R(T(kSH2[2])) * weight[5];
  const R w6 = R(T(kSH2[3])) * weight[6], w7 = R(T(kSH2[4])) * weight[7];
  g.x = g.x + fma(w3, y, fma(w6, z, two * x * (w7 - w5)));
  g.y = g.y + fma(w3, x, fma(w4, z, -(two * y * (w7 + w5))));
  g.z = g.z + fma(w4, y, fma(w6, x, four * w5 * z));
  if (degree < 3) return g;
  const R three(T(3)), six(T(6)), eight(T(8));
  const R xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  const R w8 = R(T(kSH3[0])) * weight[8], w9 = R(T(kSH3[1])) * weight[9], w10 = R(T(kSH3[2])) * weight[10];
  const R w11 = R(T(kSH3[3])) * weight[11], w12 = R(T(kSH3[4])) * weight[12], w13 = R(T(kSH3[5])) * weight[13];
  const R w14 = R(T(kSH3[6])) * weight[14];
  const R x3y3 = three * (xx - yy);
  g.x = g.x + w8 * six * xy + w9 * yz - w10 * two * xy - w11 * six * xz + w12 * (four * zz - three * xx - yy) +
        w13 * two * xz + w14 * x3y3;
  g.y = g.y + w8 * x3y3 + w9 * xz + w10 * (four * zz - xx - three * yy) - w11 * six * yz - w12 * two * xy -
        w13 * two * yz - w14 * six * xy;
  g.z = g.z + w9 * xy + w10 * eight * yz + w11 * (six * zz - three * xx - three * yy) + w12 * eight * xz +
        w13 * (xx - yy);
  return g;
}

// ---------------------------------------------------------------------------------------------------------------------
// Colour

// Direction from the camera to the mean, and one over its length.
template <class R, class T>
GNS_MATH Vec3<R> view_direction(const PinholeCamera<T>& camera, const Vec3<R>& mean, R& inverse) {
  const R x = mean.x - R(camera.center[0]), y = mean.y - R(camera.center[1]), z = mean.z - R(camera.center[2]);
  inverse = R(T(1)) / sqrt(fma(x, x, fma(y, y, z * z)));
  return {x * inverse, y * inverse, z * inverse};
}

// Adds to ∂L/∂mean what reaches it through the direction d, from g = ∂L/∂d: (g − d (d·g)) / length.
template <class R>
GNS_MATH void view_direction_backward(const Vec3<R>& d, R inverse, const Vec3<R>& g, Vec3<R>& mean) {
  const R along = fma(g.x, d.x, fma(g.y, d.y, g.z * d.z));  // normalising takes out what lies along d
  mean.x = fma(fnma(d.x, along, g.x), inverse, mean.x);
  mean.y = fma(fnma(d.y, along, g.y), inverse, mean.y);
  mean.z = fma(fnma(d.z, along, g.z), inverse, mean.z);
}

// Adds one band of coefficients, from the one numbered kFirst on. Without branches inside, so that all its loads are in
// flight together.
template <int kFirst, int kCount, class R, class Coefficient>
GNS_MATH void add_band(const R (&basis)[15], const Coefficient& coefficient, R (&colour)[3]) {
  GNS_UNROLL
  for (int k = kFirst; k < kFirst + kCount; ++k)
    for (int c = 0; c < 3; ++c) colour[c] = fma(basis[k], coefficient(k, c), colour[c]);
}

// colour = max(0, ½ + Y₀₀·constant + Σ basis[k]·coefficient(k, channel)). Returns whether all of these were finite.
template <class R, class T, class Coefficient>
GNS_MATH MaskOf<R> evaluate_colour(const PinholeCamera<T>& camera, const Vec3<R>& mean, int degree,
                                   const R (&constant)[3], const Coefficient& coefficient, R (&colour)[3]) {
  for (int c = 0; c < 3; ++c) colour[c] = fma(R(T(kSH0)), constant[c], R(T(0.5)));
  if (degree > 0) {
    R inverse, basis[15];
    sh_basis(view_direction(camera, mean, inverse), degree, basis);
    add_band<0, 3>(basis, coefficient, colour);
    if (degree > 1) add_band<3, 5>(basis, coefficient, colour);
    if (degree > 2) add_band<8, 7>(basis, coefficient, colour);
  }
  const MaskOf<R> usable = finite(colour[0]) & finite(colour[1]) & finite(colour[2]);
  for (int c = 0; c < 3; ++c) colour[c] = max(colour[c], R(T(0)));
  return usable;
}

// ∂L/∂colour through the clamp at zero, which passes nothing where it held; for single numbers.
template <class T> GNS_MATH T clamp_backward(T colour, T gradient) { return colour > T(0) ? gradient : T(0); }

// The constant's gradient from g = ∂L/∂colour, in one channel.
template <class R> GNS_MATH R constant_backward(R g) { return R(Scalar<R>(kSH0)) * g; }

// A coefficient's gradient from g, in one channel; adds to `by_basis` what this channel has of ∂L/∂(the basis' value).
template <class R> GNS_MATH R coefficient_backward(R g, R coefficient, R basis, R& by_basis) {
  by_basis = fma(g, coefficient, by_basis);
  return basis * g;
}

// ---------------------------------------------------------------------------------------------------------------------
// Blending: C = Σ cᵢ αᵢ Tᵢ + T·background, Tᵢ = Π (1 − αⱼ) over those in front (3DGS, eq. 3). d = (dx, dy) is
// mean − pixel.

// Σ₂⁻¹ = [[a, b], [b, c]].
template <class R> struct Conic { R a, b, c; };

template <class R> GNS_MATH Conic<R> conic_of(const Projection<R>& p) {
  const R inverse = R(Scalar<R>(1)) / p.determinant;
  return {p.c * inverse, -(p.b * inverse), p.a * inverse};
}

// −½ dᵀΣ₂⁻¹d in base 2, for log2(α) = qa·dx² + qb·dx·dy + qc·dy² + log2(o).
template <class R> struct Exponent { R qa, qb, qc; };

template <class R> GNS_MATH Exponent<R> exponent_of(const Conic<R>& conic) {
  using T = Scalar<R>;
  return {R(T(-0.5 * kLog2E)) * conic.a, R(T(-kLog2E)) * conic.b, R(T(-0.5 * kLog2E)) * conic.c};
}

// The conic back from the exponent.
template <class R> GNS_MATH Conic<R> conic_of(const Exponent<R>& q) {
  using T = Scalar<R>;
  return {R(T(-2 * kLn2)) * q.qa, R(T(-kLn2)) * q.qb, R(T(-2 * kLn2)) * q.qc};
}

// What of a Gaussian is the same down a column of pixels: log2(α) = u + (v + qc·dy)·dy.
template <class R> struct Column {
  R dx, u, v;
  GNS_MATH Column(R dx, R qa, R qb, R log2_opacity) : dx(dx), u(fma(qa * dx, dx, log2_opacity)), v(qb * dx) {}
};

// The same of t = Σ₂⁻¹d: t₁ = a_dx + b·dy and t₂ = b_dx + c·dy.
template <class R> struct ConicColumn {
  R a_dx, b_dx;
  Scalar<R> b, c;
  GNS_MATH ConicColumn(const Conic<Scalar<R>>& conic, R dx)
      : a_dx(R(conic.a) * dx), b_dx(R(conic.b) * dx), b(conic.b), c(conic.c) {}
};

// One Gaussian on one pixel, given the transmittance in front of it: the same instructions forwards and backwards.
template <class R> struct Contribution {
  R density;  // o·exp(−½ dᵀΣ₂⁻¹d), not capped
  R alpha, next;
  MaskOf<R> drawn, kept;

  GNS_MATH Contribution(const Column<R>& column, R qc, R dy, R transmittance) {
    using T = Scalar<R>;
    const R power = fma(fma(qc, dy, column.v), dy, column.u);
    drawn = power >= R(T(kLog2MinAlpha));
    density = fast_exp2(power);
    alpha = min(density, R(T(kMaxAlpha)));
    next = fnma(alpha, transmittance, transmittance);
    kept = drawn & (next >= R(T(kMinTransmittance)));  // a stopped pixel's transmittance is negative, so is `next`
  }

  // What of the Gaussian's colour the pixel takes: α T.
  GNS_MATH R weight(R transmittance) const { return zero_unless(kept, alpha * transmittance); }

  // The pixel's new transmittance; its sign falls when this Gaussian would bring it too low, and stays down.
  GNS_MATH R advance(R transmittance) const {
    return select(kept, next, select(drawn, negative_abs(transmittance), transmittance));
  }
};

// A pixel's final colour in one channel; `transmittance` is what is left of it. Like all_behind() and alpha_behind() for
// single numbers, and without fma: the compiler makes vectors of the CPU's loops over it.
template <class T> GNS_MATH T over_background(T colour, T transmittance, T background) {
  return colour + transmittance * background;
}

// ---------------------------------------------------------------------------------------------------------------------
// Blending backward. Front to back, as the forward pass went, so that no division has to recover the transmittance and
// every decision comes out alike. Per pixel one scalar is carried: what of g·(final colour) still lies behind, g being
// ∂L/∂colour. Then ∂L/∂α = T·(g·c) − behind/(1 − α).

// What a pixel sums up: colour, and 1/z where inverse depth is drawn too, as one more channel without a background.
template <class R> struct Colour { R red, green, blue, inverse_depth; };

// One pixel on the way from front to back.
template <class R> struct PixelGradient {
  Colour<R> g;
  R behind;
};

// `behind` before the first Gaussian: all of it that is colour.
template <class T> GNS_MATH T all_behind(const Colour<T>& g, const Colour<T>& colour) {
  return g.red * colour.red + g.green * colour.green + g.blue * colour.blue;
}
// The same with the inverse depth, and its gradient.
template <class T> GNS_MATH T depth_behind(T behind, T depth_gradient, T inverse_depth) {
  return behind + depth_gradient * inverse_depth;
}
// The same with a gradient of alpha = 1 − T_final, which every contributor scales like the background.
template <class T> GNS_MATH T alpha_behind(T behind, T alpha_gradient, T transmittance) {
  return behind - alpha_gradient * transmittance;
}

// What one Gaussian's gradients need of all pixels, summed up; for densification also the absolute values.
// t = Σ₂⁻¹(mean − pixel), h = o·G·∂L/∂α (straight through the 0.99 cap): ∂L/∂mean = −Σh·t, ∂L/∂Σ₂ = ½ Σh·ttᵀ.
template <class R> struct PixelSums {
  R red, green, blue;  // ∂L/∂colour
  R h, x, y;           // h, h·t
  R xx, xy, yy;        // h·ttᵀ
  R abs_x, abs_y;      // |h·t|; not added to without kAbsolute
  R inverse_depth;     // ∂L/∂(1/z); not added to without kDepth
};

// Adds one pixel.
template <bool kAbsolute, bool kDepth, class R>
GNS_MATH void add_pixel(PixelSums<R>& sums, PixelGradient<R>& pixel, const Contribution<R>& contribution,
                        R transmittance, const Colour<Scalar<R>>& colour, const ConicColumn<R>& conic, R dy) {
  const Colour<R>& g = pixel.g;
  const R weight = contribution.weight(transmittance);
  R along = fma(g.red, R(colour.red), fma(g.green, R(colour.green), g.blue * R(colour.blue)));
  if constexpr (kDepth) along = fma(g.inverse_depth, R(colour.inverse_depth), along);
  pixel.behind = fnma(weight, along, pixel.behind);
  const R by_alpha =
      fnma(pixel.behind, reciprocal(R(Scalar<R>(1)) - contribution.alpha), transmittance * along);
  const R h = zero_unless(contribution.kept, contribution.density * by_alpha);
  const R t1 = fma(R(conic.b), dy, conic.a_dx), t2 = fma(R(conic.c), dy, conic.b_dx);
  const R hx = h * t1, hy = h * t2;
  sums.red = fma(weight, g.red, sums.red);
  sums.green = fma(weight, g.green, sums.green);
  sums.blue = fma(weight, g.blue, sums.blue);
  sums.h = sums.h + h;
  sums.x = sums.x + hx;
  sums.y = sums.y + hy;
  if constexpr (kAbsolute) {
    sums.abs_x = sums.abs_x + abs(hx);
    sums.abs_y = sums.abs_y + abs(hy);
  }
  if constexpr (kDepth) sums.inverse_depth = fma(weight, g.inverse_depth, sums.inverse_depth);
  sums.xx = fma(hx, t1, sums.xx);
  sums.xy = fma(hx, t2, sums.xy);
  sums.yy = fma(hy, t2, sums.yy);
}

// The sums in memory, an instance's packet: (∂L/∂colour: 3, h, h·t: 2, |h·t|: 2, h·t₁², h·t₁t₂, h·t₂², ∂L/∂(1/z)).
constexpr int kPacket = 12;

// What of a packet the backward pass of the projection takes. `packet[k]` is the k-th sum, an R.
template <class R, class Packet> GNS_MATH ScreenGradient<R> screen_gradient(const Packet& packet) {
  const R half(Scalar<R>(0.5));
  return {{-packet[4], -packet[5]}, {half * packet[8], half * packet[9], half * packet[10]}, packet[11], packet[3]};
}

}  // namespace gns
