// 0.8·L1 + 0.2·(1 − SSIM) and its gradient. SSIM: Wang et al., 2004; Gaussian window of 11 pixels, σ = 1.5, zero padding.
#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

constexpr int kRadius = 5, kTaps = 2 * kRadius + 1;
constexpr int kMargin = 16;  // columns of zeros left and right of every row: the padding, and room for whole registers
constexpr int kBand = 8;     // rows a task
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;

// exp(−x²/(2·1.5²)) for x = −5 .. 5, normalised to sum one.
constexpr double kWindow[kTaps] = {0.00102838008447911,  0.007598758135239185, 0.03600077212843083, 0.10936068950970002,
                                   0.2130055377112537,   0.26601172486179436,  0.2130055377112537,  0.10936068950970002,
                                   0.03600077212843083,  0.007598758135239185, 0.00102838008447911};

// Blurs along a row: Σ window[k]·row[x + k − 5], by the window's symmetry. `at` is aligned to a register.
template <class T> GNS_INLINE Vec<T> blur_row(const T* at) {
  using V = Vec<T>;
  V sum = V(T(kWindow[kRadius])) * V::load(at);
  for (int k = 1; k <= kRadius; ++k)
    sum = fma(V(T(kWindow[kRadius - k])), V::load(at - k) + V::load(at + k), sum);
  return sum;
}
#if defined(GNS_AVX512)
// Ten loads that straddle two cache lines each would cost more than all the arithmetic: shift registers instead.
template <> GNS_INLINE Vec<float> blur_row(const float* at) {
  using V = Vec<float>;
  const V left = V::load(at - V::width), middle = V::load(at), right = V::load(at + V::width);
  auto pair = [](float weight, V a, V b, V sum) { return fma(V(weight), a + b, sum); };
  V sum = V(float(kWindow[5])) * middle;
  sum = pair(float(kWindow[4]), shifted<15>(left, middle), shifted<1>(middle, right), sum);
  sum = pair(float(kWindow[3]), shifted<14>(left, middle), shifted<2>(middle, right), sum);
  sum = pair(float(kWindow[2]), shifted<13>(left, middle), shifted<3>(middle, right), sum);
  sum = pair(float(kWindow[1]), shifted<12>(left, middle), shifted<4>(middle, right), sum);
  return pair(float(kWindow[0]), shifted<11>(left, middle), shifted<5>(middle, right), sum);
}
#endif

}  // namespace

template <class T>
double photometric_loss(Workspace<T>& work, int width, int height, const T* image, const uint8_t* target,
                        const uint8_t* mask, T* gradient) {
  using V = Vec<T>;
  constexpr int W = V::width;
  const int columns = (width + W - 1) / W * W;  // whole registers
  const size_t stride = columns + 2 * kMargin, plane = stride * height;
  // x, y (rendered and truth), then three maps of derivatives, each with three channels.
  T* planes = work.planes.ensure(15 * plane);
  T *x_planes = planes, *y_planes = planes + 3 * plane, *d_mean = planes + 6 * plane, *d_xx = planes + 9 * plane,
    *d_xy = planes + 12 * plane;
  const int bands = (height + kBand - 1) / kBand;
  double* partial = work.partial.ensure(2 * size_t(bands) * 3);
  const double elements = 3.0 * width * height;

  parallel_for(bands, [&](int band) {
    const int last = (band + 1) * kBand < height ? (band + 1) * kBand : height;
    for (int channel = 0; channel < 3; ++channel) {
      for (int row = band * kBand; row < last; ++row) {
        T* x = x_planes + channel * plane + row * stride;
        T* y = y_planes + channel * plane + row * stride;
        for (size_t i = 0; i < kMargin; ++i) x[i] = y[i] = 0;
        for (size_t i = kMargin + width; i < stride; ++i) x[i] = y[i] = 0;
        x += kMargin;
        y += kMargin;
        const T* from = image + (size_t(channel) * height + row) * width;
        const uint8_t* bytes = target + size_t(row) * width * 3 + channel;
        for (int i = 0; i < width; ++i) x[i] = from[i];
        for (int i = 0; i < width; ++i) y[i] = T(bytes[3 * i]) * T(1.0 / 255);
        if (mask) {
          const uint8_t* seen = mask + size_t(row) * width;
          for (int i = 0; i < width; ++i)
            if (!seen[i]) x[i] = y[i] = 0;
        }
      }
    }
  });

  auto taps = [&](int row, int& first, int& last) {  // the rows of the window that exist
    first = row < kRadius ? kRadius - row : 0;
    last = row + kRadius >= height ? height - 1 - row + kRadius : kTaps - 1;
  };

  parallel_for(bands * 3, [&](int task) {
    const int channel = task / bands, band = task % bands;
    const int last_row = (band + 1) * kBand < height ? (band + 1) * kBand : height;
    const T* x_plane = x_planes + channel * plane + kMargin;
    const T* y_plane = y_planes + channel * plane + kMargin;
    double l1 = 0, ssim = 0;
    constexpr int kChunk = 1024;  // columns at a time, so that the rows of sums stay in the first-level cache
    alignas(64) T sums[4][kChunk + 2 * kMargin];
    for (int row = band * kBand; row < last_row; ++row) {
      int first_tap, last_tap;
      taps(row, first_tap, last_tap);
      V row_l1(T(0)), row_ssim(T(0));
      for (int start = 0; start < columns; start += kChunk) {
        const int stop = start + kChunk < columns ? start + kChunk : columns;
        for (int i = start - kMargin; i < stop + kMargin; i += W) {
          V sx(T(0)), sy(T(0)), squares(T(0)), sxy(T(0));  // SSIM needs E[x²] and E[y²] only as a sum
          for (int k = first_tap; k <= last_tap; ++k) {
            const ptrdiff_t at = ptrdiff_t(row + k - kRadius) * ptrdiff_t(stride) + i;
            const V w{T(kWindow[k])}, x = V::load(x_plane + at), y = V::load(y_plane + at);
            const V wx = w * x, wy = w * y;
            sx += wx;
            sy += wy;
            squares = fma(wx, x, fma(wy, y, squares));
            sxy = fma(wx, y, sxy);
          }
          const int at = i - start + kMargin;
          sx.store(sums[0] + at);
          sy.store(sums[1] + at);
          squares.store(sums[2] + at);
          sxy.store(sums[3] + at);
        }
        for (int i = start; i < stop; i += W) {
          const int at = i - start + kMargin;
          const V mx = blur_row(sums[0] + at), my = blur_row(sums[1] + at);
          const V mxy = mx * my, means = fma(mx, mx, my * my);
          const V variances = blur_row(sums[2] + at) - means, cov = blur_row(sums[3] + at) - mxy;
          const V c1(T{kC1}), c2(T{kC2}), two(T(2));
          const V a1 = fma(two, mxy, c1), a2 = fma(two, cov, c2);
          const V b1 = means + c1, b2 = variances + c2;
          const V inverse = V(T(1)) / (b1 * b2), inverse_b1 = b2 * inverse, inverse_b2 = b1 * inverse;
          V s = a1 * a2 * inverse;
          V by_mean = two * fma(my * (a2 - a1), inverse, -(mx * s * (inverse_b1 - inverse_b2)));
          V by_xx = -(s * inverse_b2), by_xy = two * a1 * inverse;
          const size_t out = channel * plane + row * stride + kMargin + i;
          const V x = V::load(x_plane + size_t(row) * stride + i), y = V::load(y_plane + size_t(row) * stride + i);
          if (i + W > width) {  // columns beyond the image count for nothing
            T inside[W];
            for (int k = 0; k < W; ++k) inside[k] = i + k < width ? T(1) : T(0);
            const V in = V::load(inside);
            s = s * in;
            by_mean = by_mean * in;
            by_xx = by_xx * in;
            by_xy = by_xy * in;
          }
          row_l1 += abs(x - y);
          row_ssim += s;
          by_mean.store(d_mean + out);
          by_xx.store(d_xx + out);
          by_xy.store(d_xy + out);
        }
      }
      T* const maps[] = {d_mean, d_xx, d_xy};
      for (T* map : maps) {
        T* at = map + channel * plane + row * stride;
        for (int i = 0; i < kMargin; ++i) at[i] = at[kMargin + columns + i] = 0;
      }
      T lanes[W];
      row_l1.store(lanes);
      for (T lane : lanes) l1 += lane;
      row_ssim.store(lanes);
      for (T lane : lanes) ssim += lane;
    }
    partial[2 * task] = l1;
    partial[2 * task + 1] = ssim;
  });

  double l1 = 0, ssim = 0;
  for (int i = 0; i < 3 * bands; ++i) {
    l1 += partial[2 * i];
    ssim += partial[2 * i + 1];
  }
  const double loss = 0.8 * l1 / elements + 0.2 * (1 - ssim / elements);
  if (!gradient) return loss;

  const T l1_weight = T(0.8 / elements), ssim_weight = T(-0.2 / elements);
  parallel_for(bands * 3, [&](int task) {
    const int channel = task / bands, band = task % bands;
    const int last_row = (band + 1) * kBand < height ? (band + 1) * kBand : height;
    constexpr int kChunk = 1024;
    alignas(64) T sums[3][kChunk + 2 * kMargin];
    const size_t base = channel * plane + kMargin;
    for (int row = band * kBand; row < last_row; ++row) {
      int first_tap, last_tap;
      taps(row, first_tap, last_tap);
      for (int start = 0; start < columns; start += kChunk) {
        const int stop = start + kChunk < columns ? start + kChunk : columns;
        for (int i = start - kMargin; i < stop + kMargin; i += W) {
          V s0(T(0)), s1(T(0)), s2(T(0));
          for (int k = first_tap; k <= last_tap; ++k) {
            const size_t at = base + size_t(row + k - kRadius) * stride + i;
            const V w{T(kWindow[k])};
            s0 = fma(w, V::load(d_mean + at), s0);
            s1 = fma(w, V::load(d_xx + at), s1);
            s2 = fma(w, V::load(d_xy + at), s2);
          }
          const int at = i - start + kMargin;
          s0.store(sums[0] + at);
          s1.store(sums[1] + at);
          s2.store(sums[2] + at);
        }
        for (int i = start; i < stop; i += W) {
          const int at = i - start + kMargin;
          const V x = V::load(x_planes + base + size_t(row) * stride + i);
          const V y = V::load(y_planes + base + size_t(row) * stride + i);
          const V b0 = blur_row(sums[0] + at), b1 = blur_row(sums[1] + at), b2 = blur_row(sums[2] + at);
          const V by_ssim = fma(V(T(2)) * x, b1, fma(y, b2, b0));
          const V difference = x - y, zero(T(0));
          const V by_l1 = select(difference > zero, V(l1_weight), select(difference < zero, V(-l1_weight), zero));
          const V g = fma(V(ssim_weight), by_ssim, by_l1);
          const int lanes = width - i < W ? width - i : W;
          store_first(g, gradient + (size_t(channel) * height + row) * width + i, lanes);
        }
      }
      if (mask) {
        const uint8_t* seen = mask + size_t(row) * width;
        T* out = gradient + (size_t(channel) * height + row) * width;
        for (int i = 0; i < width; ++i)
          if (!seen[i]) out[i] = 0;
      }
    }
  });
  return loss;
}

#define GNS_INSTANTIATE(T)                                                                                        \
  template double photometric_loss<T>(Workspace<T>&, int, int, const T*, const uint8_t*, const uint8_t*, T*);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
