// The photometric loss 0.8·L1 + 0.2·(1 − SSIM) of a rendered image x and a photo y (Kerbl et al., 2023, eq. 7), its
// value and its gradient by x. SSIM: Wang et al., 2004. E[·] is the mean under a Gaussian window about a pixel; outside
// the image all is zero. "Squared" is the same with the root of the mean squared error in place of L1.
#pragma once

#if !defined(__CUDACC__)
#include <math.h>
#endif

#include "backend.h"

namespace gns {

constexpr double kErrorShare = 0.8, kSsimShare = 0.2;
constexpr double kSquaredErrorShare = 0.6, kSquaredSsimShare = 0.4;
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;  // Wang et al., §III, for values from 0 to 1

// The window: exp(−d²/(2·1.5²)) for d = −5 .. 5 pixels, normalised to sum one; both ways, columns and rows.
constexpr int kRadius = 5, kTaps = 2 * kRadius + 1;
constexpr double kWindow[kTaps] = {0.00102838008447911,  0.007598758135239185, 0.03600077212843083, 0.10936068950970002,
                                   0.2130055377112537,   0.26601172486179436,  0.2130055377112537,  0.10936068950970002,
                                   0.03600077212843083,  0.007598758135239185, 0.00102838008447911};

// A byte of the photo as a colour.
template <class T> GNS_MATH T colour_of_byte(unsigned char byte) { return T(byte) * T(1.0 / 255); }

// What SSIM needs of E[x²] and E[y²] is only their sum: the integrand.
template <class R> GNS_MATH R sum_of_squares(R x, R y) { return fma(x, x, y * y); }

// SSIM at a pixel, and its derivatives by E[x], E[x²] and E[xy].
template <class R> struct Ssim { R value, by_mean, by_xx, by_xy; };

// From mx = E[x], my = E[y], squares = E[x² + y²] and products = E[xy] (Wang et al., eq. 13):
// SSIM = (2 mx my + C₁)(2 cov + C₂) / ((mx² + my² + C₁)(σx² + σy² + C₂)) = a₁ a₂ / (b₁ b₂).
template <class R> GNS_MATH Ssim<R> ssim_terms(R mx, R my, R squares, R products) {
  using T = Scalar<R>;
  const R one(T(1)), two(T(2)), c1{T(kC1)}, c2{T(kC2)};
  const R mxy = mx * my, means = fma(mx, mx, my * my);
  const R variances = squares - means, covariance = products - mxy;
  const R a1 = fma(two, mxy, c1), a2 = fma(two, covariance, c2);
  const R b1 = means + c1, b2 = variances + c2;
  const R inverse = one / (b1 * b2), inverse_b1 = b2 * inverse, inverse_b2 = b1 * inverse;
  Ssim<R> out;
  out.value = a1 * a2 * inverse;
  out.by_mean = two * fma(my * (a2 - a1), inverse, -(mx * out.value * (inverse_b1 - inverse_b2)));
  out.by_xx = -(out.value * inverse_b2);
  out.by_xy = two * a1 * inverse;
  return out;
}

// How unlike two images are around a pixel, from the sum of the three channels' SSIM: 1 − its mean, not negative, which
// rounding could make it.
template <class T> GNS_MATH T mean_dissimilarity(T similarities) {
  const T unlike = T(1) - similarities * T(1.0 / 3);
  return unlike < T(0) ? T(0) : unlike;
}

// What a loss's gradient takes of a pixel's sign(x − y), x − y and derivative of SSIM.
template <class T> struct LossWeights { T sign, difference, ssim; };
// The loss is a mean over all elements. N: the precision to divide in.
template <class T, class N> GNS_MATH LossWeights<T> loss_weights(N elements) {
  return {T(N(kErrorShare) / elements), T(0), T(-N(kSsimShare) / elements)};
}
// Squared: ∂√(Σd²/n)/∂d = d / √(n Σd²), taken to be 0 where no pixel is wrong.
template <class T, class N> GNS_MATH LossWeights<T> squared_loss_weights(N elements, T slope) {
  return {T(0), slope, T(-N(kSquaredSsimShare) / elements)};
}
GNS_MATH double squared_slope(double squares, double elements) {
  return squares > 0 ? kSquaredErrorShare / ::sqrt(squares * elements) : 0;
}

// ∂L/∂x at a pixel. by_mean, by_xx and by_xy are ssim_terms()'s derivatives, blurred by the window: it is even, so that a
// pixel counts in the others' means just as they count in its own.
template <class R>
GNS_MATH R photometric_gradient(R x, R y, R by_mean, R by_xx, R by_xy, const LossWeights<Scalar<R>>& weights) {
  using T = Scalar<R>;
  const R by_ssim = fma(R(T(2)) * x, by_xx, fma(y, by_xy, by_mean));
  const R difference = x - y, zero(T(0));
  const R by_sign = select(difference > zero, R(weights.sign), select(difference < zero, R(-weights.sign), zero));
  return fma(R(weights.ssim), by_ssim, fma(R(weights.difference), difference, by_sign));
}

// The loss from Σ|x − y| and Σ SSIM.
GNS_MATH double photometric_value(double l1, double ssim, double elements) {
  return kErrorShare * l1 / elements + kSsimShare * (1 - ssim / elements);
}

// Squared, from Σ(x − y)².
GNS_MATH double squared_photometric_value(double squares, double ssim, double elements) {
  return kSquaredErrorShare * ::sqrt(squares / elements) + kSquaredSsimShare * (1 - ssim / elements);
}

}  // namespace gns
