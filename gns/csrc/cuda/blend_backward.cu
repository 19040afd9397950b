// The backward pass of blending; a block a tile.
//
// Front to back, as the forward pass went, so that no division has to recover the transmittance and every decision
// comes out alike. Per pixel one scalar is carried: what of g·(final colour) still lies behind, g being ∂L/∂colour.
// Then ∂L/∂α = T·(g·c) − behind/(1 − α).
//
// With t = Σ₂⁻¹(mean − pixel) and h = o·G·∂L/∂α (straight through the 0.99 cap) an instance's packet is
// (Σ ∂L/∂colour: 3, Σh, Σh·t: 2, Σ|h·t|: 2, Σh·t₁², Σh·t₁t₂, Σh·t₂², 0): ∂L/∂mean = −Σh·t, ∂L/∂Σ₂ = ½ Σh·ttᵀ.
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
  const int *list, *slots;
  const float4* splats;
  const float *image, *alpha, *image_gradient, *alpha_gradient;
  float4* packets;
};

// Sums over pixels that make up a packet, in the order of the loops below: the last two, Σ|h·t|, are for densification
// alone, and left out when nobody asks for them.
constexpr int kSums = 9, kScreenSums = 11;

GNS_DEVICE int place_in_packet(int sum) { return sum < 6 ? sum : sum < kSums ? sum + 2 : sum - 3; }

// kCount sums over the lanes at once: at each level a lane hands half of its values to its partner and keeps the sums of
// the other half. 12 shuffles for nine sums and 13 for eleven, where separate sums would take five each. Each sum is
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

// State of one pixel on the way from front to back.
struct PixelGradient {
  float red, green, blue;  // g = ∂L/∂colour
  float behind;
};

GNS_DEVICE PixelGradient begin_pixel(const BackwardArguments& in, size_t at) {
  const size_t plane = size_t(in.width) * in.height;
  PixelGradient g;
  g.red = in.image_gradient[at];
  g.green = in.image_gradient[plane + at];
  g.blue = in.image_gradient[2 * plane + at];
  g.behind = fma(g.red, in.image[at], fma(g.green, in.image[plane + at], g.blue * in.image[2 * plane + at]));
  // alpha = 1 − T at the end, which every contributor scales like the background.
  if (in.alpha_gradient) g.behind = fnma(in.alpha_gradient[at], 1.0f - in.alpha[at], g.behind);
  return g;
}

// Adds one pixel's part to the sums of one splat; returns whether there was any.
template <int kCount>
GNS_DEVICE bool add_pixel(float (&sum)[kCount], const Column& column, const float4& shape, const float4& colour,
                          float dy, float& transmittance, PixelGradient& g) {
  const Contribution c(column, shape.z, dy, transmittance);
  if (c.kept) {
    const float weight = c.alpha * transmittance;
    const float along = fma(g.red, colour.x, fma(g.green, colour.y, g.blue * colour.z));
    g.behind = fnma(weight, along, g.behind);
    const float alpha_grad = fnma(g.behind, fast_reciprocal(1.0f - c.alpha), transmittance * along);
    const float h = c.density * alpha_grad;
    // The conic out of the exponent's factors, which hold −½ log2(e), −log2(e), −½ log2(e) times its entries.
    const float conic_b = float(-kLn2) * shape.y;
    const float t1 = fma(conic_b, dy, float(-2 * kLn2) * shape.x * column.dx);
    const float t2 = fma(float(-2 * kLn2) * shape.z, dy, conic_b * column.dx);
    const float hx = h * t1, hy = h * t2;
    sum[0] = fma(weight, g.red, sum[0]);
    sum[1] = fma(weight, g.green, sum[1]);
    sum[2] = fma(weight, g.blue, sum[2]);
    sum[3] += h;
    sum[4] += hx;
    sum[5] += hy;
    sum[6] = fma(hx, t1, sum[6]);
    sum[7] = fma(hx, t2, sum[7]);
    sum[8] = fma(hy, t2, sum[8]);
    if constexpr (kCount == kScreenSums) {
      sum[9] += fabsf(hx);
      sum[10] += fabsf(hy);
    }
  }
  transmittance = c.advance(transmittance);
  return c.kept;
}

// One warp over one group of splats; leaves the sums of those that contributed in its part of `shared`.
template <int kCount>
GNS_DEVICE void walk_group(BackwardShared& shared, const PixelPair& pixels, int group, int size,
                           float (&transmittance)[2], PixelGradient (&g)[2]) {
  float4* mine = reinterpret_cast<float4*>(&shared.partial.sums[pixels.warp][0][0]);
  for (int k = 0; k < kPacketQuads; ++k) mine[k * kWarp + pixels.lane] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  __syncwarp();
  if (__all_sync(kAllLanes, both_stopped(transmittance))) return;
  const int owned = owned_sum<kCount>(pixels.lane);
  const Candidates candidates = find_candidates(shared.batch, pixels, group, size);
  for (unsigned rest = candidates.half[0] | candidates.half[1]; rest; rest &= rest - 1) {
    const int bit = __ffs(rest) - 1, j = group + bit;
    const float4 place = shared.batch.place[j], shape = shared.batch.shape[j], colour = shared.batch.colour[j];
    const Column column(place, shape, pixels.x);
    float sum[kCount] = {};
    bool contributed = false;
    for (int p = 0; p < 2; ++p)
      if (candidates.half[p] >> bit & 1u)
        contributed |= add_pixel(sum, column, shape, colour, place.y - pixels.y[p], transmittance[p], g[p]);
    if (!__any_sync(kAllLanes, contributed)) continue;
    const float total = sum_lanes(sum, pixels.lane);
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
  PixelGradient g[2] = {};
  for (int p = 0; p < 2; ++p) {
    transmittance[p] = pixels.inside[p] ? 1.0f : -1.0f;
    if (pixels.inside[p]) g[p] = begin_pixel(in, pixels.at[p]);
  }

  int begin = range.x;
  for (; begin < range.y; begin += kBatch) {
    // Also keeps the last batch until all have read it.
    if (__syncthreads_and(both_stopped(transmittance))) break;
    const int size = range.y - begin < kBatch ? range.y - begin : kBatch;
    fill_batch<true>(shared.batch, in.splats, in.list + begin, size);
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
      NAME(int width, int height, const int2* tile_ranges, const int* list, const int* slots, const float4* splats,    \
           const float* image, const float* alpha, const float* image_gradient, const float* alpha_gradient,           \
           float4* packets) {                                                                                          \
    __shared__ gns::BackwardShared shared;                                                                            \
    gns::blend_tile_backward<gns::SUMS>({width, height, tile_ranges, list, slots, splats, image, alpha,               \
                                         image_gradient, alpha_gradient, packets},                                     \
                                        shared);                                                                      \
  }
GNS_BLEND_BACKWARD(blend_backward, kSums)
GNS_BLEND_BACKWARD(blend_backward_screen, kScreenSums)
