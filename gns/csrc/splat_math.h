// Every formula of the renderer, once. `R` is whatever a backend computes with: a register of lanes on the CPU, a float
// in a CUDA thread. A backend supplies +, −, ×, /, fma(a,b,c) = ab+c, fnma(a,b,c) = c−ab, min, max, abs, sqrt, exp2, log2,
// comparisons and select(mask, if_true, if_false) for it. min(a, b) and max(a, b) return b where either is NaN, so with
// the constant first a NaN passes through, and fails the renderer's tests of what is drawn.
//
// Notation: Σ = R S Sᵀ Rᵀ (Gaussian in the world), M = W R S (its axes in the camera), A = J M (its axes on the screen),
// Σ₂ = A Aᵀ + 0.3 I. Zwicker et al., EWA Splatting, 2002; Kerbl et al., 3D Gaussian Splatting, 2023.
#pragma once

#if defined(__CUDACC__)
#define GNS_MATH __host__ __device__ inline
#else
#define GNS_MATH inline __attribute__((always_inline))
#endif

namespace gns {

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.69314718055994530942;
constexpr double kNear = 0.2;             // Gaussians nearer than this are not drawn
constexpr double kDilation = 0.3;         // pixels², added to the diagonal of every screen covariance
constexpr double kFrustumMargin = 1.3;    // x/z and y/z are clamped to this multiple of tan(fov/2) in the Jacobian
constexpr double kMinAlpha = 1.0 / 255;   // contributions below are skipped
constexpr double kMaxAlpha = 0.99;
constexpr double kMinTransmittance = 1e-4;  // a pixel stops before it would fall below
constexpr double kLog2MinAlpha = -7.99435343685885793770;  // log2(1/255)

// A pinhole camera in the precision of the kernel. Rows of W first; limits are those of the Jacobian's clamp.
template <class T> struct PinholeCamera {
  int width, height;
  T fx, fy, cx, cy;
  T rotation[9], translation[3];
  T center[3];
  T limit_x, limit_y;
};

template <class R> struct Vec3 { R x, y, z; };
template <class R> struct Mat3 { R m[3][3]; };

// ---------------------------------------------------------------------------------------------------------------------
// Rotation and shape

// Quaternion (w, x, y, z) scaled to length one. A zero quaternion stays zero, which to_rotation() reads as identity.
template <class R> struct UnitQuaternion { R w, x, y, z, inverse_length; };

template <class R, class T> GNS_MATH UnitQuaternion<R> normalise(R w, R x, R y, R z, T) {
  const R length = sqrt(fma(w, w, fma(x, x, fma(y, y, z * z))));
  const R inverse = R(T(1)) / max(R(T(1e-12)), length);
  return {w * inverse, x * inverse, y * inverse, z * inverse, inverse};
}

template <class R, class T> GNS_MATH Mat3<R> to_rotation(const UnitQuaternion<R>& q, T) {
  const R one(T(1)), two(T(2));
  const R xx = q.x * q.x, yy = q.y * q.y, zz = q.z * q.z;
  const R xy = q.x * q.y, xz = q.x * q.z, yz = q.y * q.z;
  const R wx = q.w * q.x, wy = q.w * q.y, wz = q.w * q.z;
  return {{{fnma(two, yy + zz, one), two * (xy - wz), two * (xz + wy)},
           {two * (xy + wz), fnma(two, xx + zz, one), two * (yz - wx)},
           {two * (xz - wy), two * (yz + wx), fnma(two, xx + yy, one)}}};
}

// Gradient of the raw quaternion from D = ∂L/∂R.
template <class R, class T>
GNS_MATH void rotation_backward(const UnitQuaternion<R>& q, const Mat3<R>& gradient, R (&out)[4], T) {
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
};

template <class R, class T>
GNS_MATH Projection<R> project(const PinholeCamera<T>& camera, const Vec3<R>& mean, const R (&log_scale)[3],
                               const R (&quat)[4]) {
  const auto* W = camera.rotation;
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

  p.quaternion = normalise(quat[0], quat[1], quat[2], quat[3], T(0));
  p.rotation = to_rotation(p.quaternion, T(0));
  for (int k = 0; k < 3; ++k) {
    // Held to what a float can hold; a Gaussian that large overflows below and is not drawn.
    p.scale[k] = exp2(min(R(T(120)), max(R(T(-120)), log_scale[k] * R(T(kLog2E)))));
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
  return p;
}

// Gradients of the raw geometry. `mean2d` is ∂L/∂(u, v); `covariance` is (∂L/∂a, half of ∂L/∂b, ∂L/∂c), that is the
// entries of the symmetric matrix ∂L/∂Σ₂. Where the Jacobian's slope was clamped, x·clamp is held constant (as published).
template <class R, class T>
GNS_MATH void project_backward(const PinholeCamera<T>& camera, const Projection<R>& p, const R (&mean2d)[2],
                               const R (&covariance)[3], Vec3<R>& mean, R (&log_scale)[3], R (&quat)[4]) {
  const auto* W = camera.rotation;
  const auto& A = p.screen;
  const R two(T(2)), zero(T(0));
  const R jx = R(camera.fx) * p.inverse_z, jy = R(camera.fy) * p.inverse_z;

  Mat3<R> axes;  // ∂L/∂M
  R jx_sum = zero, jy_sum = zero, slope_x = zero, slope_y = zero;
  for (int k = 0; k < 3; ++k) {
    const R g0 = two * fma(covariance[0], A[0][k], covariance[1] * A[1][k]);  // ∂L/∂A = 2 ∂L/∂Σ₂ A
    const R g1 = two * fma(covariance[1], A[0][k], covariance[2] * A[1][k]);
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
  view.z = -(through_mean + through_jacobian);
  mean.x = fma(R(W[0]), view.x, fma(R(W[3]), view.y, R(W[6]) * view.z));
  mean.y = fma(R(W[1]), view.x, fma(R(W[4]), view.y, R(W[7]) * view.z));
  mean.z = fma(R(W[2]), view.x, fma(R(W[5]), view.y, R(W[8]) * view.z));

  Mat3<R> rotation;  // ∂L/∂R
  for (int k = 0; k < 3; ++k) {
    R scale = zero;
    for (int j = 0; j < 3; ++j) {
      const R n = fma(R(W[j]), axes.m[0][k], fma(R(W[3 + j]), axes.m[1][k], R(W[6 + j]) * axes.m[2][k]));
      scale = fma(n, p.rotation.m[j][k], scale);
      rotation.m[j][k] = n * p.scale[k];
    }
    log_scale[k] = scale * p.scale[k];
  }
  rotation_backward(p.quaternion, rotation, quat, T(0));
}

// Opacity and its binary logarithm, from the logit.
template <class R> struct Opacity { R value, log2_value; };

template <class R, class T> GNS_MATH Opacity<R> activate_opacity(R logit, T) {
  // e^−ℓ, with ℓ held to where it fits a float; beyond, opacity is 0 or 1 to the last bit anyway.
  const R e = exp2(min(R(T(120)), max(R(T(-120)), -(logit * R(T(kLog2E))))));
  const R sum = R(T(1)) + e;
  return {R(T(1)) / sum, -log2(sum)};
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
template <class R, class T> GNS_MATH void sh_basis(const Vec3<R>& d, int degree, R (&basis)[15], T) {
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
template <class R, class T>
GNS_MATH Vec3<R> sh_basis_backward(const Vec3<R>& d, int degree, const R (&weight)[15], T) {
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

}  // namespace gns
