// The photometric loss of loss_math.h and the map of dissimilarity, a band of rows at a time.
#include <algorithm>
#include <utility>

#include "../loss_math.h"
#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

constexpr int kMargin = 16;  // columns of zeros left and right of every row: the padding, and room for whole registers
constexpr int kBand = 64;    // rows a task: a loss must not depend on the number of threads

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

template <class T> void add_lanes(Vec<T> values, double& sum) {
  T lanes[Vec<T>::width];
  values.store(lanes);
  for (T lane : lanes) sum += lane;
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
  double squares(int row) const;
  template <class Value> void blur_down(int begin, int end, Value value, const Rows<T>& out) const;
  void blur_images(int begin, int end) const;
  Ssim<Vec<T>> similarity(int row, int column) const;
  void compare(int row, double& l1, double& ssim) const;
  void add_similarity(int row, T* out) const;
  void blur_maps(int begin, int end) const;
  void differentiate(int row, const LossWeights<T>& weights, T* gradient) const;
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
  for (int i = 0; i < width; ++i) to_y[i] = colour_of_byte<T>(bytes[3 * i]);
  if (!mask) return;
  const uint8_t* seen = mask + size_t(row) * width;
  for (int i = 0; i < width; ++i)
    if (!seen[i]) to_x[i] = to_y[i] = 0;
}

// Σ(x − y)² of a row.
template <class T> double Band<T>::squares(int row) const {
  using V = Vec<T>;
  V sum(T(0));
  for (int i = 0; i < columns; i += V::width) {
    const V difference = V::load(x[row] + i) - V::load(y[row] + i);
    sum = fma(difference, difference, sum);
  }
  double total = 0;
  add_lanes(sum, total);
  return total;
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
  auto squares = [&](int row, int i) GNS_INLINE_LAMBDA { return sum_of_squares(at(x, row, i), at(y, row, i)); };
  blur_down(begin, end, squares, sums[2]);
  blur_down(begin, end, [&](int row, int i) GNS_INLINE_LAMBDA { return at(x, row, i) * at(y, row, i); }, sums[3]);
}

// Of a register of pixels, once the images are blurred.
template <class T> Ssim<Vec<T>> Band<T>::similarity(int row, int column) const {
  return ssim_terms(blur_row(sums[0][row] + column), blur_row(sums[1][row] + column), blur_row(sums[2][row] + column),
                    blur_row(sums[3][row] + column));
}

// Adds SSIM around each pixel of a row to `out`, a row of the picture.
template <class T> void Band<T>::add_similarity(int row, T* out) const {
  using V = Vec<T>;
  T values[V::width];
  for (int i = 0; i < width; i += V::width) {
    similarity(row, i).value.store(values);
    for (int k = 0; k < V::width && i + k < width; ++k) out[i + k] += values[k];
  }
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
    Ssim<V> s = similarity(row, i);
    if (i + W > width) {  // columns beyond the image count for nothing
      T inside[W];
      for (int k = 0; k < W; ++k) inside[k] = i + k < width ? T(1) : T(0);
      const V in = V::load(inside);
      s = {s.value * in, s.by_mean * in, s.by_xx * in, s.by_xy * in};
    }
    row_l1 += abs(V::load(x[row] + i) - V::load(y[row] + i));
    row_ssim += s.value;
    s.by_mean.store(mean_row + i);
    s.by_xx.store(xx_row + i);
    s.by_xy.store(xy_row + i);
  }
  add_lanes(row_l1, l1);
  add_lanes(row_ssim, ssim);
}

template <class T> void Band<T>::blur_maps(int begin, int end) const {
  const Rows<T>* maps[] = {&by_mean, &by_xx, &by_xy};
  for (int k = 0; k < 3; ++k) {
    auto value = [&map = *maps[k]](int row, int i) GNS_INLINE_LAMBDA { return Vec<T>::load(map[row] + i); };
    blur_down(begin, end, value, sums[k]);
  }
}

template <class T> void Band<T>::differentiate(int row, const LossWeights<T>& weights, T* gradient) const {
  using V = Vec<T>;
  T* out = gradient + (size_t(channel) * height + row) * width;
  for (int i = 0; i < width; i += V::width) {
    const V mean = blur_row(sums[0][row] + i), xx = blur_row(sums[1][row] + i), xy = blur_row(sums[2][row] + i);
    const V g = photometric_gradient(V::load(x[row] + i), V::load(y[row] + i), mean, xx, xy, weights);
    store_first(g, out + i, width - i < V::width ? width - i : V::width);
  }
  if (!mask) return;
  const uint8_t* seen = mask + size_t(row) * width;
  for (int i = 0; i < width; ++i)
    if (!seen[i]) out[i] = 0;
}

// The pictures to compare, and how they fall into bands. What a band needs of its neighbours it computes once more.
template <class T> struct Comparison {
  int width, height;
  const T* image;
  const uint8_t *target, *mask;

  int bands() const { return (height + kBand - 1) / kBand; }
  int begin(int band) const { return band * kBand; }
  int end(int band) const { return std::min(begin(band) + kBand, height); }
  Band<T> load(int channel, int from, int to) const;
};

// Rows `from` to `to` − 1 of a channel, in memory that this thread's next band overwrites.
template <class T> Band<T> Comparison<T>::load(int channel, int from, int to) const {
  constexpr int W = Vec<T>::width;
  const int columns = (width + W - 1) / W * W;
  // Steps of an odd number of cache lines, or a column would lie in few of the cache's sets.
  constexpr int kLine = 64 / sizeof(T);
  const ptrdiff_t stride = ((columns + 2 * kMargin + kLine - 1) / kLine | 1) * kLine;
  const ptrdiff_t images = stride * (kBand + 4 * kRadius), maps = stride * (kBand + 2 * kRadius);
  static thread_local Buffer<T> memory;
  T* at = memory.ensure(2 * images + 7 * maps);
  const int first = from + kRadius;  // of the rows that can be compared
  auto rows = [&](ptrdiff_t size, int first_row) {
    const Rows<T> taken = {at, stride, first_row};
    at += size;
    return taken;
  };
  const Band<T> band = {width, height, columns, channel, image, target, mask,
                        rows(images, from), rows(images, from),
                        {rows(maps, first), rows(maps, first), rows(maps, first), rows(maps, first)},
                        rows(maps, first), rows(maps, first), rows(maps, first)};
  for (int row = from; row < to; ++row) band.load(row);
  return band;
}

}  // namespace

// A task takes a band of rows of one channel through all passes, so that nothing leaves the cache in between. A squared
// error's gradient needs that of the whole picture first.
template <class T>
double photometric_loss(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* gradient,
                        bool squared) {
  const Comparison<T> comparison = {width, height, image, target, mask};
  const int tasks = 3 * comparison.bands();
  static thread_local Buffer<double> sums;
  double* const partial = sums.ensure(2 * size_t(tasks));
  const double elements = 3.0 * width * height;

  double squares = 0;
  if (squared) {
    parallel_for(tasks, [&](int task) {
      const int begin = comparison.begin(task / 3), end = comparison.end(task / 3);
      const Band<T> band = comparison.load(task % 3, begin, end);
      partial[task] = 0;
      for (int row = begin; row < end; ++row) partial[task] += band.squares(row);
    });
    for (int task = 0; task < tasks; ++task) squares += partial[task];
  }
  const LossWeights<T> weights = squared ? squared_loss_weights<T>(elements, T(squared_slope(squares, elements)))
                                         : loss_weights<T>(elements);
  parallel_for(tasks, [&](int task) {
    const int begin = comparison.begin(task / 3), end = comparison.end(task / 3);
    const int halo = gradient ? kRadius : 0, first = begin - halo, last = end + halo;  // of the rows to compare
    const Band<T> band = comparison.load(task % 3, first - kRadius, last + kRadius);
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
    for (int row = begin; row < end; ++row) band.differentiate(row, weights, gradient);
  });

  double l1 = 0, ssim = 0;
  for (int task = 0; task < tasks; ++task) {
    l1 += partial[2 * task];
    ssim += partial[2 * task + 1];
  }
  return squared ? squared_photometric_value(squares, ssim, elements) : photometric_value(l1, ssim, elements);
}

// A task takes a band of rows of all channels, so that it alone writes its pixels.
template <class T>
void dissimilarity(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* out) {
  const Comparison<T> comparison = {width, height, image, target, mask};
  parallel_for(comparison.bands(), [&](int task) {
    const int begin = comparison.begin(task), end = comparison.end(task);
    T *const first = out + size_t(begin) * width, *const last = out + size_t(end) * width;
    clear(first, last);
    for (int channel = 0; channel < 3; ++channel) {
      const Band<T> band = comparison.load(channel, begin - kRadius, end + kRadius);
      band.blur_images(begin, end);
      for (int row = begin; row < end; ++row) band.add_similarity(row, out + size_t(row) * width);
    }
    for (T* pixel = first; pixel < last; ++pixel) *pixel = mean_dissimilarity(*pixel);
  });
}

#define GNS_INSTANTIATE(T)                                                                                        \
  template double photometric_loss<T>(int, int, const T*, const uint8_t*, const uint8_t*, T*, bool);              \
  template void dissimilarity<T>(int, int, const T*, const uint8_t*, const uint8_t*, T*);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
