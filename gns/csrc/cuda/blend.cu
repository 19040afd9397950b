// Blending the splats of every tile, near to far; a block a tile. And what each splat contributes, weighed by an edge
// map.
#include "blend.cuh"

namespace gns {

// Everything that blend_tile may read or write; what an instantiation does not use is null.
struct BlendArguments {
  int width, height;
  const int2* tile_ranges;
  const int* list;
  const unsigned char* halves;
  const int* slots;
  const float4* splats;
  const float *background, *edges;
  float *image, *alpha, *scores, *inverse_depth;
  int* counts;
};

// A splat's score in each warp of the tile.
struct Scores { float part[kWarps][kBatch]; };

GNS_DEVICE float sum_of_lanes(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// kMaps: inverse depth and counts too.
template <bool kColour, bool kScore, bool kMaps = false>
GNS_DEVICE void blend_tile(const BlendArguments& in, Batch& batch, Scores* scores) {
  const PixelPair pixels(in.width, in.height);
  const int thread = int(threadIdx.x);
  const int2 range = in.tile_ranges[blockIdx.x];
  float transmittance[2], colour[2][3] = {}, edge[2] = {}, inverse_depth[2] = {};
  int count[2] = {};
  for (int p = 0; p < 2; ++p) {
    transmittance[p] = pixels.inside[p] ? 1.0f : -1.0f;  // pixels outside the image have stopped before they start
    if (kScore && pixels.inside[p]) edge[p] = in.edges[pixels.at[p]];
  }

  int begin = range.x;
  for (; begin < range.y; begin += kBatch) {
    // Also keeps the last batch until all have read it.
    if (__syncthreads_and(both_stopped(transmittance))) break;
    const int size = range.y - begin < kBatch ? range.y - begin : kBatch;
    fill_batch<kColour>(batch, in.splats, in.list + begin, in.halves + begin, size);
    if (kScore)
      for (int warp = 0; warp < kWarps; ++warp) scores->part[warp][thread] = 0.0f;
    __syncthreads();

    for (int group = 0; group < size; group += kWarp) {
      if (__all_sync(kAllLanes, both_stopped(transmittance))) break;
      const Candidates candidates = find_candidates(batch, pixels, group, size);
      for (unsigned rest = candidates.half[0] | candidates.half[1]; rest; rest &= rest - 1) {
        const int bit = __ffs(rest) - 1, j = group + bit;
        const float2 place = batch.place[j];
        const float4 shape = batch.shape[j];
        const Column<float> column = column_of(place, shape, pixels.x);
        float score = 0.0f;
        for (int p = 0; p < 2; ++p) {
          if (!(candidates.half[p] >> bit & 1u)) continue;
          const Contribution<float> c(column, shape.z, place.y - pixels.y[p], transmittance[p]);
          const float weight = c.weight(transmittance[p]);
          if (kColour) {
            const float4 shade = batch.colour[j];
            colour[p][0] = fma(weight, shade.x, colour[p][0]);
            colour[p][1] = fma(weight, shade.y, colour[p][1]);
            colour[p][2] = fma(weight, shade.z, colour[p][2]);
            if (kMaps) {
              inverse_depth[p] = fma(weight, reciprocal(shade.w), inverse_depth[p]);
              count[p] += c.kept;
            }
          }
          if (kScore) score = fma(weight, edge[p], score);
          transmittance[p] = c.advance(transmittance[p]);
        }
        if (kScore) {
          score = sum_of_lanes(score);
          if (pixels.lane == 0) scores->part[pixels.warp][j] = score;
        }
      }
    }

    if (kScore) {
      __syncthreads();
      if (thread < size) {
        float sum = 0.0f;
        for (int warp = 0; warp < kWarps; ++warp) sum += scores->part[warp][thread];
        in.scores[in.slots[begin + thread]] = sum;
      }
    }
  }
  if (kScore)  // instances behind the last that any pixel saw
    for (int i = begin + thread; i < range.y; i += kBlendThreads) in.scores[in.slots[i]] = 0.0f;

  if (!kColour) return;
  const size_t plane = size_t(in.width) * in.height;
  for (int p = 0; p < 2; ++p) {
    if (!pixels.inside[p]) continue;
    const float left = fabsf(transmittance[p]);
    for (int c = 0; c < 3; ++c) in.image[c * plane + pixels.at[p]] = over_background(colour[p][c], left, in.background[c]);
    if (in.alpha) in.alpha[pixels.at[p]] = 1.0f - left;
    if (kMaps && in.inverse_depth) in.inverse_depth[pixels.at[p]] = inverse_depth[p];
    if (kMaps && in.counts) in.counts[pixels.at[p]] = count[p];
  }
}

}  // namespace gns

extern "C" __global__ void __launch_bounds__(128, 8)
    blend(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,
          const float4* splats, const float* background, float* image, float* alpha) {
  __shared__ gns::Batch batch;
  gns::blend_tile<true, false>({width, height, tile_ranges, list, halves, nullptr, splats, background, nullptr, image, alpha,
                                nullptr},
                               batch, nullptr);
}

extern "C" __global__ void __launch_bounds__(128, 8)
    blend_maps(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,
               const float4* splats, const float* background, float* image, float* alpha, float* inverse_depth,
               int* counts) {
  __shared__ gns::Batch batch;
  gns::blend_tile<true, false, true>({width, height, tile_ranges, list, halves, nullptr, splats, background, nullptr,
                                      image, alpha, nullptr, inverse_depth, counts},
                                     batch, nullptr);
}

extern "C" __global__ void __launch_bounds__(128, 8)
    blend_score(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,
                const int* slots, const float4* splats, const float* background, const float* edges, float* image, float* alpha,
                float* scores) {
  __shared__ gns::Batch batch;
  __shared__ gns::Scores parts;
  gns::blend_tile<true, true>({width, height, tile_ranges, list, halves, slots, splats, background, edges, image, alpha,
                               scores},
                              batch, &parts);
}

extern "C" __global__ void __launch_bounds__(128, 8)
    score(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,
          const int* slots, const float4* splats, const float* edges, float* scores) {
  __shared__ gns::Batch batch;
  __shared__ gns::Scores parts;
  gns::blend_tile<false, true>({width, height, tile_ranges, list, halves, slots, splats, nullptr, edges, nullptr, nullptr,
                                scores},
                               batch, &parts);
}

// The scores of a Gaussian's instances summed in the order of its slots, a thread a Gaussian.
extern "C" __global__ void __launch_bounds__(256)
    sum_scores(int count, const int* tile_counts, const int* slot_begin, const float* scores, float* importance) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int tiles = tile_counts[i];
  float sum = 0.0f;
  if (tiles) {
    const float* score = scores + slot_begin[i];
    for (int k = 0; k < tiles; ++k) sum += score[k];
  }
  importance[i] = sum;
}
