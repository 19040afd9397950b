// What blending a tile and its backward pass have in common: 128 threads a tile of 16×16 pixels, a warp an 8×8
// quadrant, a lane the pixels (x, y) and (x, y + 4) of it. Splats are staged in shared memory, a batch at a time; per
// 32 splats every lane tests one box against the two 8×4 halves of its quadrant, and only what one of them meets is
// looked at.
#pragma once

#include "tiles.cuh"

namespace gns {

constexpr int kBlendThreads = 128;
constexpr int kWarps = kBlendThreads / kWarp;
constexpr int kBatch = kBlendThreads;  // splats staged at a time: one a thread
constexpr int kQuadrant = 8;           // pixels, both ways
constexpr int kHalf = 4;               // rows of a half quadrant, and from a lane's first pixel to its second

// Gaussians as the loops below read them.
struct Batch {
  float4 place[kBatch];   // x, y, pixel columns, pixel rows (packed spans)
  float4 shape[kBatch];   // Exponent: qa, qb, qc; binary logarithm of the opacity
  float4 colour[kBatch];  // red, green, blue, depth
};

// A splat a thread: the first `size` of a tile's `list`.
template <bool kColour> GNS_DEVICE void fill_batch(Batch& batch, const float4* splats, const int* list, int size) {
  const int thread = int(threadIdx.x);
  if (thread >= size) return;
  const float4* splat = splats + size_t(list[thread]) * kSplat;
  batch.place[thread] = splat[0];
  batch.shape[thread] = splat[1];
  if (kColour) batch.colour[thread] = splat[2];
}

// Where this thread's two pixels are.
struct PixelPair {
  int warp, lane;
  int left, top;    // of the warp's quadrant
  int column, row;  // of the first pixel
  bool inside[2];   // the image
  float x, y[2];    // pixel centres
  size_t at[2];     // index in an [H, W] plane

  GNS_DEVICE PixelPair(int width, int height) {
    const int tiles_x = ceil_div(width, kTile), thread = int(threadIdx.x);
    warp = thread / kWarp;
    lane = thread % kWarp;
    left = int(blockIdx.x) % tiles_x * kTile + warp % 2 * kQuadrant;
    top = int(blockIdx.x) / tiles_x * kTile + warp / 2 * kQuadrant;
    column = left + lane % kQuadrant;
    row = top + lane / kQuadrant;
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
  bool meets[2] = {false, false};
  if (j < size) {
    const unsigned columns = __float_as_uint(batch.place[j].z), rows = __float_as_uint(batch.place[j].w);
    const bool beside = span_first(columns) >= pixels.left + kQuadrant || span_last(columns) < pixels.left;
    for (int p = 0; p < 2; ++p) {
      const int top = pixels.top + p * kHalf;
      meets[p] = !beside && span_first(rows) < top + kHalf && span_last(rows) >= top;
    }
  }
  return {{__ballot_sync(kAllLanes, meets[0]), __ballot_sync(kAllLanes, meets[1])}};
}

// A splat seen from both pixels of a lane, which lie in one column.
GNS_DEVICE Column<float> column_of(const float4& place, const float4& shape, float x) {
  return {place.x - x, shape.x, shape.y, shape.w};
}

GNS_DEVICE bool both_stopped(const float (&transmittance)[2]) {
  return transmittance[0] < 0.0f && transmittance[1] < 0.0f;
}

}  // namespace gns
