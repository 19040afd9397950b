// What blending a tile and its backward pass have in common: 128 threads a tile of 16×16 pixels, a warp an 8×8
// quadrant, a lane the pixels (x, y) and (x, y + 4) of it. Splats are staged in shared memory, a batch at a time; of 32
// splats every lane asks one whether its ellipse meets the two 8×4 halves of its quadrant, and only those that do are
// looked at.
#pragma once

#include "tiles.cuh"

namespace gns {

constexpr int kBlendThreads = 128;
constexpr int kWarps = kBlendThreads / kWarp;
constexpr int kBatch = kBlendThreads;  // splats staged at a time: one a thread

// Gaussians as the loops below read them.
struct Batch {
  float4 shape[kBatch];   // Exponent: qa, qb, qc; binary logarithm of the opacity
  float4 colour[kBatch];  // red, green, blue, depth
  float2 place[kBatch];   // x, y
  unsigned char halves[kBatch];  // of this tile that the ellipse meets, see halves_met
};

// A splat a thread: the first `size` of a tile's `list`, and the same of `halves`.
template <bool kColour>
GNS_DEVICE void fill_batch(Batch& batch, const float4* splats, const int* list, const unsigned char* halves, int size) {
  const int thread = int(threadIdx.x);
  if (thread >= size) return;
  const float4* splat = splats + size_t(list[thread]) * kSplat;
  const float4 place = splat[0];
  batch.place[thread] = make_float2(place.x, place.y);
  batch.halves[thread] = halves[thread];
  batch.shape[thread] = splat[1];
  if (kColour) batch.colour[thread] = splat[2];
}

// Where this thread's two pixels are.
struct PixelPair {
  int warp, lane;
  int first_half;   // bit of the warp's upper half quadrant; the next is that of the lower
  int column, row;  // of the first pixel
  bool inside[2];   // the image
  float x, y[2];    // pixel centres
  size_t at[2];     // index in an [H, W] plane

  GNS_DEVICE PixelPair(int width, int height) {
    const int tiles_x = ceil_div(width, kTile), thread = int(threadIdx.x);
    warp = thread / kWarp;
    lane = thread % kWarp;
    first_half = warp % 2 * kHalves + warp / 2 * 2;
    column = int(blockIdx.x) % tiles_x * kTile + warp % 2 * kQuadrant + lane % kQuadrant;
    row = int(blockIdx.x) / tiles_x * kTile + warp / 2 * kQuadrant + lane / kQuadrant;
    x = float(column) + 0.5f;
    for (int p = 0; p < 2; ++p) {
      inside[p] = column < width && row + p * kHalf < height;
      y[p] = float(row + p * kHalf) + 0.5f;
      at[p] = size_t(row + p * kHalf) * width + column;
    }
  }
};

// The splats of a group of 32 that meet this warp's pixels: a bit a splat, for each half of the quadrant.
struct Candidates { unsigned half[2]; };

GNS_DEVICE Candidates find_candidates(const Batch& batch, const PixelPair& pixels, int group, int size) {
  const int j = group + pixels.lane;
  const unsigned halves = j < size ? unsigned(batch.halves[j]) >> pixels.first_half : 0u;
  return {{__ballot_sync(kAllLanes, halves & 1u), __ballot_sync(kAllLanes, halves & 2u)}};
}

// A splat seen from both pixels of a lane, which lie in one column.
GNS_DEVICE Column<float> column_of(const float2& place, const float4& shape, float x) {
  return {place.x - x, shape.x, shape.y, shape.w};
}

GNS_DEVICE bool both_stopped(const float (&transmittance)[2]) {
  return transmittance[0] < 0.0f && transmittance[1] < 0.0f;
}

}  // namespace gns
