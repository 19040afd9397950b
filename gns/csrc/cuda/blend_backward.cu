// The backward pass of blending: every instance's packet; a block a tile.
//
// The sums go over lanes by shuffles, over warps by shared memory, both in a fixed order, and to the instance's own
// slot: no atomics, and the same bits every time.
#include "blend.cuh"

namespace gns {

constexpr int kPacketQuads = kPacket / 4;

// Each warp's sums for a group of 32 splats.
struct Partial {
  float sums[kWarps][kWarp][kPacket];
};

struct BackwardShared {
  Batch batch;
  alignas(16) Partial partial;
};

struct BackwardArguments {
  int width, height;
  const int2* tile_ranges;
  const int* list;
  const unsigned char* halves;
  const int* slots;
  const float4* splats;
  const float *image, *alpha, *image_gradient, *alpha_gradient;
  float4* packets;
  const float *inverse_depth, *depth_gradient;  // with kDepthSums alone
};

// PixelSums that are added up over lanes. Those after the ninth are left out when nobody asks for them: two Σ|h·t|, for
// densification alone, and the one of the inverse depth, which brings these two with it.
constexpr int kSums = 9, kScreenSums = 11, kDepthSums = 12;

GNS_DEVICE int place_in_packet(int sum) {
  return sum < 6 ? sum : sum < kSums ? sum + 2 : sum < kScreenSums ? sum - 3 : sum;
}

// kCount sums over the lanes at once: at each level a lane hands half of its values to its partner and keeps the sums of
// the other half. 12 shuffles for nine sums and 13 for eleven or twelve, where separate sums would take five each. Each sum is
// added up in the same order however many there are.
template <int kCount, int kDistance = kWarp / 2> GNS_DEVICE float sum_lanes(const float (&value)[kCount], int lane) {
  if constexpr (kDistance == 0) {
    return value[0];
  } else if constexpr (kCount == 1) {
    const float both[1] = {value[0] + __shfl_xor_sync(kAllLanes, value[0], kDistance)};
    return sum_lanes<1, kDistance / 2>(both, lane);
  } else {
    constexpr int kKept = (kCount + 1) / 2;
    const bool upper = lane & kDistance;
    float kept[kKept];
    for (int k = 0; k < kKept; ++k) {
      const float low = value[k], high = k + kKept < kCount ? value[k + kKept] : 0.0f;
      kept[k] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kDistance);
    }
    return sum_lanes<kKept, kDistance / 2>(kept, lane);
  }
}

// The first kCount of `sums` over the lanes, see sum_lanes().
template <int kCount> GNS_DEVICE float sum_over_lanes(const PixelSums<float>& sums, int lane) {
  const float all[kDepthSums] = {sums.red, sums.green, sums.blue, sums.h,     sums.x,     sums.y,
                                 sums.xx,  sums.xy,    sums.yy,   sums.abs_x, sums.abs_y, sums.inverse_depth};
  float value[kCount];
  for (int k = 0; k < kCount; ++k) value[k] = all[k];
  return sum_lanes(value, lane);
}

// Which of kCount sums sum_lanes() leaves in this lane; −1 for a lane that is left with none.
template <int kCount, int kDistance = kWarp / 2> GNS_DEVICE int owned_sum(int lane) {
  if constexpr (kDistance == 0) {
    return 0;
  } else {
    constexpr int kKept = (kCount + 1) / 2;
    const int kept = owned_sum<kKept, kDistance / 2>(lane);
    const int sum = lane & kDistance ? kept + kKept : kept;
    return kept >= 0 && sum < kCount ? sum : -1;
  }
}

GNS_DEVICE Colour<float> colour_at(const float* planes, size_t plane, size_t at) {
  return {planes[at], planes[plane + at], planes[2 * plane + at], 0.0f};
}

template <bool kDepth> GNS_DEVICE PixelGradient<float> begin_pixel(const BackwardArguments& in, size_t at) {
  const size_t plane = size_t(in.width) * in.height;
  Colour<float> g = colour_at(in.image_gradient, plane, at);
  float behind = all_behind(g, colour_at(in.image, plane, at));
  if (kDepth) {
    g.inverse_depth = in.depth_gradient[at];
    behind = depth_behind(behind, g.inverse_depth, in.inverse_depth[at]);
  }
  if (!in.alpha_gradient) return {g, behind};
  return {g, alpha_behind(behind, in.alpha_gradient[at], 1.0f - in.alpha[at])};
}

// One warp over one group of splats; leaves the sums of those that contributed in its part of `shared`.
template <int kCount>
GNS_DEVICE void walk_group(BackwardShared& shared, const PixelPair& pixels, int group, int size,
                           float (&transmittance)[2], PixelGradient<float> (&g)[2]) {
  float4* mine = reinterpret_cast<float4*>(&shared.partial.sums[pixels.warp][0][0]);
  for (int k = 0; k < kPacketQuads; ++k) mine[k * kWarp + pixels.lane] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  __syncwarp();
  if (__all_sync(kAllLanes, both_stopped(transmittance))) return;
  const int owned = owned_sum<kCount>(pixels.lane);
  const Candidates candidates = find_candidates(shared.batch, pixels, group, size);
  for (unsigned rest = candidates.half[0] | candidates.half[1]; rest; rest &= rest - 1) {
    const int bit = __ffs(rest) - 1, j = group + bit;
    const float2 place = shared.batch.place[j];
    const float4 shape = shared.batch.shape[j], colour = shared.batch.colour[j];
    const Column<float> column = column_of(place, shape, pixels.x);
    const ConicColumn<float> conic(conic_of(Exponent<float>{shape.x, shape.y, shape.z}), column.dx);
    const Colour<float> shade = {colour.x, colour.y, colour.z, kCount == kDepthSums ? reciprocal(colour.w) : 0.0f};
    PixelSums<float> sums = {};
    bool contributed = false;
    for (int p = 0; p < 2; ++p) {
      if (!(candidates.half[p] >> bit & 1u)) continue;
      const float dy = place.y - pixels.y[p];
      const Contribution<float> c(column, shape.z, dy, transmittance[p]);
      if (c.kept)
        add_pixel<(kCount >= kScreenSums), kCount == kDepthSums>(sums, g[p], c, transmittance[p], shade, conic, dy);
      transmittance[p] = c.advance(transmittance[p]);
      contributed |= c.kept;
    }
    if (!__any_sync(kAllLanes, contributed)) continue;
    const float total = sum_over_lanes<kCount>(sums, pixels.lane);
    if (owned >= 0) shared.partial.sums[pixels.warp][bit][place_in_packet(owned)] = total;
  }
}

// The warps' sums of one group, in the order of the warps, to the slots of its instances.
GNS_DEVICE void store_group(const BackwardArguments& in, const Partial& partial, int first, int splats) {
  const int thread = int(threadIdx.x);
  if (thread >= splats * kPacketQuads) return;
  const int bit = thread / kPacketQuads, quad = thread % kPacketQuads;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int warp = 0; warp < kWarps; ++warp) {
    const float4 part = reinterpret_cast<const float4*>(&partial.sums[warp][bit][0])[quad];
    sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
  }
  in.packets[size_t(in.slots[first + bit]) * kPacketQuads + quad] = sum;
}

template <int kCount>
GNS_DEVICE void blend_tile_backward(const BackwardArguments& in, BackwardShared& shared) {
  const PixelPair pixels(in.width, in.height);
  const int thread = int(threadIdx.x);
  const int2 range = in.tile_ranges[blockIdx.x];
  float transmittance[2];
  PixelGradient<float> g[2] = {};
  for (int p = 0; p < 2; ++p) {
    transmittance[p] = pixels.inside[p] ? 1.0f : -1.0f;
    if (pixels.inside[p]) g[p] = begin_pixel<kCount == kDepthSums>(in, pixels.at[p]);
  }

  int begin = range.x;
  for (; begin < range.y; begin += kBatch) {
    // Also keeps the last batch until all have read it.
    if (__syncthreads_and(both_stopped(transmittance))) break;
    const int size = range.y - begin < kBatch ? range.y - begin : kBatch;
    fill_batch<true>(shared.batch, in.splats, in.list + begin, in.halves + begin, size);
    __syncthreads();
    for (int group = 0; group < size; group += kWarp) {
      walk_group<kCount>(shared, pixels, group, size, transmittance, g);
      __syncthreads();
      store_group(in, shared.partial, begin + group, size - group < kWarp ? size - group : kWarp);
      __syncthreads();  // before the next group's sums overwrite these
    }
  }
  // Instances behind the last that any pixel saw: no slot may keep what a former iteration left in it.
  for (int i = begin + thread; i < range.y; i += kBlendThreads)
    for (int quad = 0; quad < kPacketQuads; ++quad)
      in.packets[size_t(in.slots[i]) * kPacketQuads + quad] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

}  // namespace gns

#define GNS_BLEND_BACKWARD(NAME, SUMS)                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 8)                                                                \
      NAME(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,               \
           const int* slots, const float4* splats,                                                                     \
           const float* image, const float* alpha, const float* image_gradient, const float* alpha_gradient,           \
           float4* packets) {                                                                                          \
    __shared__ gns::BackwardShared shared;                                                                            \
    gns::blend_tile_backward<gns::SUMS>({width, height, tile_ranges, list, halves, slots, splats, image, alpha,       \
                                         image_gradient, alpha_gradient, packets},                                     \
                                        shared);                                                                      \
  }
GNS_BLEND_BACKWARD(blend_backward, kSums)
GNS_BLEND_BACKWARD(blend_backward_screen, kScreenSums)

extern "C" __global__ void __launch_bounds__(128, 8)
    blend_backward_depth(int width, int height, const int2* tile_ranges, const int* list, const unsigned char* halves,
                         const int* slots, const float4* splats, const float* image, const float* alpha,
                         const float* image_gradient, const float* alpha_gradient, float4* packets,
                         const float* inverse_depth, const float* depth_gradient) {
  __shared__ gns::BackwardShared shared;
  gns::blend_tile_backward<gns::kDepthSums>({width, height, tile_ranges, list, halves, slots, splats, image, alpha,
                                             image_gradient, alpha_gradient, packets, inverse_depth, depth_gradient},
                                            shared);
}
