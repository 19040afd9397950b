// The photometric loss of loss_math.h, a block a tile of 16×16 pixels of one channel (blockIdx.z), and the map of
// dissimilarity, a block a tile.
#include "device.cuh"
#include "loss_math.h"

namespace gns {

constexpr int kHalo = kTile + 2 * kRadius;
constexpr int kLossThreads = kTile * kTile;

__constant__ float kTapWeights[kTaps] = {float(kWindow[0]), float(kWindow[1]), float(kWindow[2]), float(kWindow[3]),
                                         float(kWindow[4]), float(kWindow[5]), float(kWindow[6]), float(kWindow[7]),
                                         float(kWindow[8]), float(kWindow[9]), float(kWindow[10])};

struct Images {
  int width, height;
  const float* image;           // [3][H][W]
  const unsigned char* target;  // [H][W][3]
  const unsigned char* mask;    // [H][W] or null
};

struct PixelValue { float x, y; };  // rendered and photographed

// Zero outside the image and where the mask is.
GNS_DEVICE PixelValue load_pixel(const Images& in, int channel, int column, int row) {
  if (column < 0 || row < 0 || column >= in.width || row >= in.height) return {0.0f, 0.0f};
  const size_t at = size_t(row) * in.width + column;
  if (in.mask && !in.mask[at]) return {0.0f, 0.0f};
  const size_t plane = size_t(in.width) * in.height;
  return {in.image[channel * plane + at], colour_of_byte<float>(in.target[3 * at + channel])};
}

// Blurs `kMaps` maps over the halo to this thread's pixel: along rows into shared memory, then down columns. load(map,
// row, column) gives a value of the halo. All threads of the block must call.
template <int kMaps, class Load>
GNS_DEVICE void blur(float (&rows)[kMaps][kHalo][kTile], Load load, float (&out)[kMaps]) {
  const int thread = threadIdx.y * kTile + threadIdx.x;
  for (int cell = thread; cell < kHalo * kTile; cell += kLossThreads) {
    const int row = cell / kTile, column = cell % kTile;
    float sum[kMaps] = {};
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      float value[kMaps];
      load(row, column + k, value);
      for (int map = 0; map < kMaps; ++map) sum[map] = fma(kTapWeights[k], value[map], sum[map]);
    }
    for (int map = 0; map < kMaps; ++map) rows[map][row][column] = sum[map];
  }
  __syncthreads();
  for (int map = 0; map < kMaps; ++map) {
    out[map] = 0.0f;
#pragma unroll
    for (int k = 0; k < kTaps; ++k) out[map] = fma(kTapWeights[k], rows[map][threadIdx.y + k][threadIdx.x], out[map]);
  }
}

// Sum over the block, in a fixed order; the result is thread 0's. `scratch` holds a value a warp.
GNS_DEVICE float sum_of_block(float value, float* scratch) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, lane = thread % kWarp;
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  if (lane == 0) scratch[thread / kWarp] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kLossThreads / kWarp; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}

struct ComparisonShared {
  float x[kHalo][kHalo], y[kHalo][kHalo];
  float rows[4][kHalo][kTile];
};

// SSIM of this thread's pixel in one channel, with its derivatives. All threads of the block must call.
GNS_DEVICE Ssim<float> compare(const Images& in, int channel, ComparisonShared& shared) {
  const int left = blockIdx.x * kTile, top = blockIdx.y * kTile;
  const int thread = threadIdx.y * kTile + threadIdx.x;
  for (int cell = thread; cell < kHalo * kHalo; cell += kLossThreads) {
    const int row = cell / kHalo, column = cell % kHalo;
    const PixelValue value = load_pixel(in, channel, left + column - kRadius, top + row - kRadius);
    shared.x[row][column] = value.x;
    shared.y[row][column] = value.y;
  }
  __syncthreads();
  float blurred[4];
  blur<4>(
      shared.rows,
      [&](int row, int column, float (&value)[4]) {
        const float x = shared.x[row][column], y = shared.y[row][column];
        value[0] = x;
        value[1] = y;
        value[2] = sum_of_squares(x, y);
        value[3] = x * y;
      },
      blurred);
  return ssim_terms(blurred[0], blurred[1], blurred[2], blurred[3]);
}

struct MapsShared {
  ComparisonShared images;
  float scratch[kLossThreads / kWarp];
};

GNS_DEVICE void loss_maps(const Images& in, bool squared, float* maps, float* partial, MapsShared& shared) {
  const int channel = blockIdx.z, thread = threadIdx.y * kTile + threadIdx.x;
  const int column = blockIdx.x * kTile + threadIdx.x, row = blockIdx.y * kTile + threadIdx.y;
  const Ssim<float> terms = compare(in, channel, shared.images);
  float error = 0.0f, ssim = 0.0f;
  if (column < in.width && row < in.height) {
    ssim = terms.value;
    const float difference = shared.images.x[threadIdx.y + kRadius][threadIdx.x + kRadius] -
                             shared.images.y[threadIdx.y + kRadius][threadIdx.x + kRadius];
    error = squared ? difference * difference : fabsf(difference);
    if (maps) {
      const size_t plane = size_t(in.width) * in.height, at = channel * plane + size_t(row) * in.width + column;
      maps[at] = terms.by_mean;
      maps[3 * plane + at] = terms.by_xx;
      maps[6 * plane + at] = terms.by_xy;
    }
  }
  const float error_sum = sum_of_block(error, shared.scratch), ssim_sum = sum_of_block(ssim, shared.scratch);
  if (thread == 0) {
    const size_t block = (size_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    partial[2 * block] = error_sum;
    partial[2 * block + 1] = ssim_sum;
  }
}

GNS_DEVICE void dissimilarity(const Images& in, float* out, ComparisonShared& shared) {
  float similarities = 0.0f;
#pragma unroll 1
  for (int channel = 0; channel < 3; ++channel) similarities += compare(in, channel, shared).value;
  const int column = blockIdx.x * kTile + threadIdx.x, row = blockIdx.y * kTile + threadIdx.y;
  if (column < in.width && row < in.height) out[size_t(row) * in.width + column] = mean_dissimilarity(similarities);
}

struct GradientShared {
  float maps[3][kHalo][kHalo];
  float rows[3][kHalo][kTile];
};

GNS_DEVICE void loss_gradient(const Images& in, const float* slope, const float* maps, const float* scale,
                              float* gradient, GradientShared& shared) {
  const int channel = blockIdx.z, left = blockIdx.x * kTile, top = blockIdx.y * kTile;
  const size_t plane = size_t(in.width) * in.height;
  for (int cell = threadIdx.y * kTile + threadIdx.x; cell < kHalo * kHalo; cell += kLossThreads) {
    const int column = left + cell % kHalo - kRadius, row = top + cell / kHalo - kRadius;
    const bool inside = column >= 0 && row >= 0 && column < in.width && row < in.height;
    for (int map = 0; map < 3; ++map)
      shared.maps[map][cell / kHalo][cell % kHalo] =
          inside ? maps[(3 * map + channel) * plane + size_t(row) * in.width + column] : 0.0f;
  }
  __syncthreads();
  float blurred[3];
  blur<3>(
      shared.rows,
      [&](int row, int column, float (&value)[3]) {
        for (int map = 0; map < 3; ++map) value[map] = shared.maps[map][row][column];
      },
      blurred);

  const int column = left + threadIdx.x, row = top + threadIdx.y;
  if (column >= in.width || row >= in.height) return;
  const size_t at = size_t(row) * in.width + column;
  float g = 0.0f;
  if (!in.mask || in.mask[at]) {
    const PixelValue pixel = load_pixel(in, channel, column, row);
    const float elements = 3.0f * float(plane);
    const LossWeights<float> weights = slope ? squared_loss_weights(elements, slope[0]) : loss_weights<float>(elements);
    g = photometric_gradient(pixel.x, pixel.y, blurred[0], blurred[1], blurred[2], weights);
    if (scale) g *= scale[0];
  }
  gradient[channel * plane + at] = g;
}

}  // namespace gns

extern "C" __global__ void __launch_bounds__(256)
    loss_maps(int width, int height, const float* image, const unsigned char* target, const unsigned char* mask,
              int squared, float* maps, float* partial) {
  __shared__ gns::MapsShared shared;
  gns::loss_maps({width, height, image, target, mask}, squared != 0, maps, partial, shared);
}

// Room for four blocks on a multiprocessor: where eight must fit, registers spill on some GPUs.
extern "C" __global__ void __launch_bounds__(256, 4)
    dissimilarity(int width, int height, const float* image, const unsigned char* target, const unsigned char* mask,
                  float* out) {
  __shared__ gns::ComparisonShared shared;
  gns::dissimilarity({width, height, image, target, mask}, out, shared);
}

extern "C" __global__ void __launch_bounds__(256)
    loss_gradient(int width, int height, const float* image, const unsigned char* target, const unsigned char* mask,
                  const float* slope, const float* maps, const float* scale, float* gradient) {
  __shared__ gns::GradientShared shared;
  gns::loss_gradient({width, height, image, target, mask}, slope, maps, scale, gradient, shared);
}

// The loss from the blocks' sums; one block. Its threads' sums are joined in the order of the threads. With `slope` the
// errors are squared: what their gradient takes of x − y.
extern "C" __global__ void __launch_bounds__(256)
    loss_sum(int width, int height, const float* partial, float* loss, float* slope) {
  __shared__ double error_sums[256], ssim_sums[256];
  const int blocks = 3 * gns::ceil_div(width, gns::kTile) * gns::ceil_div(height, gns::kTile);
  double error = 0, ssim = 0;
  for (int block = threadIdx.x; block < blocks; block += 256) {
    error += partial[2 * size_t(block)];
    ssim += partial[2 * size_t(block) + 1];
  }
  error_sums[threadIdx.x] = error;
  ssim_sums[threadIdx.x] = ssim;
  for (unsigned half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      error_sums[threadIdx.x] += error_sums[threadIdx.x + half];
      ssim_sums[threadIdx.x] += ssim_sums[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    const double elements = 3.0 * width * height;
    loss[0] = float(slope ? gns::squared_photometric_value(error_sums[0], ssim_sums[0], elements)
                          : gns::photometric_value(error_sums[0], ssim_sums[0], elements));
    if (slope) slope[0] = float(gns::squared_slope(error_sums[0], elements));
  }
}
