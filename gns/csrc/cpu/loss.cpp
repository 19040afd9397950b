// 0.8·L1 + 0.2·(1 − SSIM) and its gradient. SSIM: Wang et al., 2004; Gaussian window of 11 pixels, σ = 1.5, zero padding.
#include <utility>

#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

constexpr int kRadius = 5, kTaps = 2 * kRadius + 1;
constexpr int kMargin = 16;  // columns of zeros left and right of every row: the padding, and room for whole registers
constexpr int kBand = 64;    // rows a task: a loss must not depend on the number of threads
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

// One row on the way down a column: its share of the eleven sums that it belongs to, which take turns in `sum`. The one
// that begins here takes the place of the one that the row before has completed.
template <int kRow, class T, int... k>
GNS_INLINE void add_row(Vec<T> value, Vec<T> (&sum)[kTaps], std::integer_sequence<int, k...>) {
  sum[kRow] = Vec<T>(T(kWindow[0])) * value;
  ((sum[(kRow + kRadius * 2 - k) % kTaps] =
        fma(Vec<T>(T(kWindow[k + 1])), value, sum[(kRow + kRadius * 2 - k) % kTaps])),
   ...);
}

template <int kRow, class T, class Value>
GNS_INLINE void blur_step(int row, int rows, Value value, Vec<T> (&sum)[kTaps], T* out, ptrdiff_t stride) {
  if (row >= rows + 2 * kRadius) return;
  add_row<kRow, T>(value(row), sum, std::make_integer_sequence<int, 2 * kRadius>());
  if (row >= 2 * kRadius) sum[(kRow + 1) % kTaps].store(out + (row - 2 * kRadius) * stride);
}

// Blurs a register of columns: row r of `out` is Σ window[k]·value(r + k), so that value(0) is that of five rows above.
// Each is read once; the sums stay in registers.
template <class T, class Value, int... kRow>
GNS_INLINE void blur_columns(int rows, Value value, T* out, ptrdiff_t stride, std::integer_sequence<int, kRow...>) {
  Vec<T> sum[kTaps];
  for (Vec<T>& s : sum) s = Vec<T>(T(0));
  for (int row = 0; row < rows + 2 * kRadius; row += kTaps)
    (blur_step<kRow, T>(row + kRow, rows, value, sum, out, stride), ...);
}

// Neighbouring rows of one channel, with margins on both sides; memory begins with the margin of row `first`.
template <class T> struct Rows {
  T* memory;
  ptrdiff_t stride;
  int first;
  T* operator[](int row) const { return memory + (row - first) * stride + kMargin; }
};

template <class T> void clear(T* from, T* to) {
  while (from < to) *from++ = 0;
}

// A band of rows of one channel, and what the passes over it hand on to each other. All is zero outside the image.
template <class T> struct Band {
  int width, height, columns;  // columns: whole registers
  int channel;
  const T* image;
  const uint8_t *target, *mask;
  Rows<T> x, y;                   // rendered and truth, black where masked
  Rows<T> sums[4];                // blurred down the columns; with margins of zeros
  Rows<T> by_mean, by_xx, by_xy;  // derivatives of SSIM by the blurred x, x² and xy

  bool outside(int row) const { return row < 0 || row >= height; }
  void load(int row) const;
  template <class Value> void blur_down(int begin, int end, Value value, const Rows<T>& out) const;
  void blur_images(int begin, int end) const;
  void compare(int row, double& l1, double& ssim) const;
  void blur_maps(int begin, int end) const;
  void differentiate(int row, T l1_weight, T ssim_weight, T* gradient) const;
};

template <class T> void Band<T>::load(int row) const {
  const int known = outside(row) ? 0 : width;
  T *to_x = x[row], *to_y = y[row];
  clear(to_x + known, to_x + columns);
  clear(to_y + known, to_y + columns);
  if (!known) return;
  const T* from = image + (size_t(channel) * height + row) * width;
  const uint8_t* bytes = target + size_t(row) * width * 3 + channel;
  for (int i = 0; i < width; ++i) to_x[i] = from[i];
  for (int i = 0; i < width; ++i) to_y[i] = T(bytes[3 * i]) * T(1.0 / 255);
  if (!mask) return;
  const uint8_t* seen = mask + size_t(row) * width;
  for (int i = 0; i < width; ++i)
    if (!seen[i]) to_x[i] = to_y[i] = 0;
}

// Rows begin to end − 1 of `out`: the blur down the columns of value(row, column), a register.
template <class T>
template <class Value>
void Band<T>::blur_down(int begin, int end, Value value, const Rows<T>& out) const {
  for (int row = begin; row < end; ++row) {
    clear(out[row] - kMargin, out[row]);
    clear(out[row] + columns, out[row] + columns + kMargin);
  }
  for (int i = 0; i < columns; i += Vec<T>::width)
    blur_columns<T>(
        end - begin, [&](int row) GNS_INLINE_LAMBDA { return value(begin - kRadius + row, i); }, out[begin] + i,
        out.stride, std::make_integer_sequence<int, kTaps>());
}

template <class T> void Band<T>::blur_images(int begin, int end) const {
  using V = Vec<T>;
  auto at = [](const Rows<T>& rows, int row, int i) GNS_INLINE_LAMBDA { return V::load(rows[row] + i); };
  blur_down(begin, end, [&](int row, int i) GNS_INLINE_LAMBDA { return at(x, row, i); }, sums[0]);
  blur_down(begin, end, [&](int row, int i) GNS_INLINE_LAMBDA { return at(y, row, i); }, sums[1]);
  auto squares = [&](int row, int i) GNS_INLINE_LAMBDA {  // SSIM needs E[x²] and E[y²] only as a sum
    const V a = at(x, row, i), b = at(y, row, i);
    return fma(a, a, b * b);
  };
  blur_down(begin, end, squares, sums[2]);
  blur_down(begin, end, [&](int row, int i) GNS_INLINE_LAMBDA { return at(x, row, i) * at(y, row, i); }, sums[3]);
}

// Adds a row's Σ|x − y| and Σ SSIM, and leaves the derivatives of SSIM.
template <class T> void Band<T>::compare(int row, double& l1, double& ssim) const {
  using V = Vec<T>;
  constexpr int W = V::width;
  T *mean_row = by_mean[row], *xx_row = by_xx[row], *xy_row = by_xy[row];
  if (outside(row)) {
    clear(mean_row, mean_row + columns);
    clear(xx_row, xx_row + columns);
    clear(xy_row, xy_row + columns);
    return;
  }
  V row_l1(T(0)), row_ssim(T(0));
  for (int i = 0; i < columns; i += W) {
    const V mx = blur_row(sums[0][row] + i), my = blur_row(sums[1][row] + i);
    const V mxy = mx * my, means = fma(mx, mx, my * my);
    const V variances = blur_row(sums[2][row] + i) - means, cov = blur_row(sums[3][row] + i) - mxy;
    const V c1(T{kC1}), c2(T{kC2}), two(T(2));
    const V a1 = fma(two, mxy, c1), a2 = fma(two, cov, c2);
    const V b1 = means + c1, b2 = variances + c2;
    const V inverse = V(T(1)) / (b1 * b2), inverse_b1 = b2 * inverse, inverse_b2 = b1 * inverse;
    V s = a1 * a2 * inverse;
    V mean = two * fma(my * (a2 - a1), inverse, -(mx * s * (inverse_b1 - inverse_b2)));
    V xx = -(s * inverse_b2), xy = two * a1 * inverse;
    if (i + W > width) {  // columns beyond the image count for nothing
      T inside[W];
      for (int k = 0; k < W; ++k) inside[k] = i + k < width ? T(1) : T(0);
      const V in = V::load(inside);
      s = s * in;
      mean = mean * in;
      xx = xx * in;
      xy = xy * in;
    }
    row_l1 += abs(V::load(x[row] + i) - V::load(y[row] + i));
    row_ssim += s;
    mean.store(mean_row + i);
    xx.store(xx_row + i);
    xy.store(xy_row + i);
  }
  T lanes[W];
  row_l1.store(lanes);
  for (T lane : lanes) l1 += lane;
  row_ssim.store(lanes);
  for (T lane : lanes) ssim += lane;
}

template <class T> void Band<T>::blur_maps(int begin, int end) const {
  const Rows<T>* maps[] = {&by_mean, &by_xx, &by_xy};
  for (int k = 0; k < 3; ++k) {
    auto value = [&map = *maps[k]](int row, int i) GNS_INLINE_LAMBDA { return Vec<T>::load(map[row] + i); };
    blur_down(begin, end, value, sums[k]);
  }
}

template <class T> void Band<T>::differentiate(int row, T l1_weight, T ssim_weight, T* gradient) const {
  using V = Vec<T>;
  T* out = gradient + (size_t(channel) * height + row) * width;
  for (int i = 0; i < width; i += V::width) {
    const V a = V::load(x[row] + i), b = V::load(y[row] + i);
    const V b0 = blur_row(sums[0][row] + i), b1 = blur_row(sums[1][row] + i), b2 = blur_row(sums[2][row] + i);
    const V by_ssim = fma(V(T(2)) * a, b1, fma(b, b2, b0));
    const V difference = a - b, zero(T(0));
    const V by_l1 = select(difference > zero, V(l1_weight), select(difference < zero, V(-l1_weight), zero));
    const int lanes = width - i < V::width ? width - i : V::width;
    store_first(fma(V(ssim_weight), by_ssim, by_l1), out + i, lanes);
  }
  if (!mask) return;
  const uint8_t* seen = mask + size_t(row) * width;
  for (int i = 0; i < width; ++i)
    if (!seen[i]) out[i] = 0;
}

}  // namespace

// A task takes a band of rows of one channel through all passes, so that nothing leaves the cache in between. What a
// band needs of its neighbours it computes once more.
template <class T>
double photometric_loss(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* gradient) {
  constexpr int W = Vec<T>::width;
  const int columns = (width + W - 1) / W * W;
  // Steps of an odd number of cache lines, or a column would lie in few of the cache's sets.
  constexpr int kLine = 64 / sizeof(T);
  const ptrdiff_t stride = ((columns + 2 * kMargin + kLine - 1) / kLine | 1) * kLine;
  const ptrdiff_t images = stride * (kBand + 4 * kRadius), maps = stride * (kBand + 2 * kRadius);
  const int bands = (height + kBand - 1) / kBand, tasks = 3 * bands;
  static thread_local Buffer<double> sums;
  double* const partial = sums.ensure(2 * size_t(tasks));
  const double elements = 3.0 * width * height;
  const T l1_weight = T(0.8 / elements), ssim_weight = T(-0.2 / elements);

  parallel_for(tasks, [&](int task) {
    const int begin = task / 3 * kBand, end = begin + kBand < height ? begin + kBand : height;
    const int halo = gradient ? kRadius : 0, first = begin - halo, last = end + halo;  // of the rows to compare
    static thread_local Buffer<T> memory;
    T* at = memory.ensure(2 * images + 7 * maps);
    auto rows = [&](ptrdiff_t size, int first_row) {
      const Rows<T> taken = {at, stride, first_row};
      at += size;
      return taken;
    };
    const Band<T> band = {width, height, columns, task % 3, image, target, mask,
                          rows(images, first - kRadius), rows(images, first - kRadius),
                          {rows(maps, first), rows(maps, first), rows(maps, first), rows(maps, first)},
                          rows(maps, first), rows(maps, first), rows(maps, first)};
    for (int row = first - kRadius; row < last + kRadius; ++row) band.load(row);
    band.blur_images(first, last);
    double l1 = 0, ssim = 0, elsewhere = 0;
    for (int row = first; row < last; ++row) {
      const bool ours = row >= begin && row < end;
      band.compare(row, ours ? l1 : elsewhere, ours ? ssim : elsewhere);
    }
    partial[2 * task] = l1;
    partial[2 * task + 1] = ssim;
    if (!gradient) return;
    band.blur_maps(begin, end);
    for (int row = begin; row < end; ++row) band.differentiate(row, l1_weight, ssim_weight, gradient);
  });

  double l1 = 0, ssim = 0;
  for (int task = 0; task < tasks; ++task) {
    l1 += partial[2 * task];
    ssim += partial[2 * task + 1];
  }
  return 0.8 * l1 / elements + 0.2 * (1 - ssim / elements);
}

#define GNS_INSTANTIATE(T)                                                                                        \
  template double photometric_loss<T>(int, int, const T*, const uint8_t*, const uint8_t*, T*);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
