// The list of every tile, near to far: emit writes one instance (tile, Gaussian) a slot, Gaussian by Gaussian in depth
// order; the host sorts the slots by tile, stably; ranges cuts the result into the tiles' lists.
//
// The host makes room for `capacity` slots before it knows how many there will be. Those left over belong to no tile,
// and sort to the end. Where the instances do not fit, none is listed: the host learns of it and comes again.
#include "tiles.cuh"

namespace gns {

// Id of slots that no instance uses: the largest there is, which no image has as many tiles as to reach.
template <class Id> constexpr Id kNoTile = Id((1ull << (8 * sizeof(Id) - 1)) - 1);

constexpr int kListedAlone = 8;  // tiles that a thread lists by itself; larger Gaussians are shared by its warp

// One Gaussian whose instances are to be listed: where it lies and its first slot.
struct Listing {
  int gaussian;
  int begin;
};

template <class Id> struct Lists {
  Id* tile_ids;
  int* owners;
  unsigned char* halves;  // see halves_met
  int tiles_x;
};

// Lists the tiles of one column, from `slot` on; returns how many.
template <class Id>
GNS_DEVICE int list_column(const Lists<Id>& out, const Footprint& f, int column, int gaussian, int slot) {
  const Span span = tiles_of_column(f, column);
  const Span left = rows_of_strip(f, column * kTile, kQuadrant);
  const Span right = rows_of_strip(f, column * kTile + kQuadrant, kQuadrant);
  for (int row = span.first; row <= span.last; ++row, ++slot) {
    out.tile_ids[slot] = Id(row * out.tiles_x + column);
    out.owners[slot] = gaussian;
    out.halves[slot] = static_cast<unsigned char>(halves_met(left, row) | halves_met(right, row) << kHalves);
  }
  return span_length(span);
}

template <class Id> GNS_DEVICE void list_alone(const Lists<Id>& out, const Footprint& f, Listing work) {
  int slot = work.begin;
  for (int column = first_column(f); column <= last_column(f); ++column)
    slot += list_column(out, f, column, work.gaussian, slot);
}

// Sum of the lanes before this one; `total` is that of all.
GNS_DEVICE int sum_before(int value, int lane, int& total) {
  int sum = value;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  total = __shfl_sync(kAllLanes, sum, kWarp - 1);
  return sum - value;
}

// A warp together, a lane a column: the slots come out in the order of list_alone.
template <class Id> GNS_DEVICE void list_together(const Lists<Id>& out, const Footprint& f, Listing work, int lane) {
  int slot = work.begin;
  for (int base = first_column(f); base <= last_column(f); base += kWarp) {
    const int column = base + lane;
    const bool inside = column <= last_column(f);
    int total;
    const int before = sum_before(inside ? span_length(tiles_of_column(f, column)) : 0, lane, total);
    if (inside) list_column(out, f, column, work.gaussian, slot + before);
    slot += total;
  }
}

template <class Id>
GNS_DEVICE void emit(int count, int width, int capacity, const long long* order, const long long* ends,
                     const int* tile_counts, const float4* splats, const float4* footprints, int* slot_begin,
                     Id* tile_ids, int* owners, unsigned char* halves) {
  const int rank = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % kWarp;
  const Lists<Id> out = {tile_ids, owners, halves, ceil_div(width, kTile)};
  const long long instances = ends[count - 1];
  const bool fits = instances <= capacity;
  const size_t threads = size_t(gridDim.x) * blockDim.x;
  for (size_t slot = (fits ? size_t(instances) : 0) + rank; slot < size_t(capacity); slot += threads)
    tile_ids[slot] = kNoTile<Id>;

  Listing work = {0, 0};
  int tiles = 0;
  if (fits && rank < count) {
    work.gaussian = int(order[rank]);
    tiles = tile_counts[work.gaussian];
    work.begin = int(ends[rank] - tiles);
    if (tiles) slot_begin[work.gaussian] = work.begin;
  }
  if (tiles && tiles <= kListedAlone) list_alone(out, load_footprint(splats, footprints, work.gaussian), work);
  for (unsigned large = __ballot_sync(kAllLanes, tiles > kListedAlone); large; large &= large - 1) {
    const int from = __ffs(large) - 1;
    const Listing shared = {__shfl_sync(kAllLanes, work.gaussian, from), __shfl_sync(kAllLanes, work.begin, from)};
    list_together(out, load_footprint(splats, footprints, shared.gaussian), shared, lane);
  }
}

template <class Id>
GNS_DEVICE void ranges(int capacity, const Id* sorted_ids, const long long* sort_index, const int* owners,
                       const unsigned char* halves, int2* tile_ranges, int* list, int* slots,
                       unsigned char* list_halves) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= capacity) return;
  const Id tile = sorted_ids[i];
  if (tile == kNoTile<Id>) return;
  const int slot = int(sort_index[i]);
  list[i] = owners[slot];
  slots[i] = slot;
  list_halves[i] = halves[slot];
  if (i == 0 || sorted_ids[i - 1] != tile) tile_ranges[tile].x = i;
  if (i == capacity - 1 || sorted_ids[i + 1] != tile) tile_ranges[tile].y = i + 1;
}

}  // namespace gns

// A launch of `emit` must cover whole warps (its blocks do), since the lanes of a warp share large Gaussians.
#define GNS_TILE_KERNELS(SUFFIX, ID)                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                   \
      emit##SUFFIX(int count, int width, int capacity, const long long* order, const long long* ends,                 \
                   const int* tile_counts, const float4* splats, const float4* footprints, int* slot_begin,            \
                   ID* tile_ids, int* owners, unsigned char* halves) {                                                 \
    gns::emit(count, width, capacity, order, ends, tile_counts, splats, footprints, slot_begin, tile_ids, owners,     \
              halves);                                                                                                \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(256)                                                                   \
      ranges##SUFFIX(int capacity, const ID* sorted_ids, const long long* sort_index, const int* owners,               \
                     const unsigned char* halves, int2* tile_ranges, int* list, int* slots,                            \
                     unsigned char* list_halves) {                                                                     \
    gns::ranges(capacity, sorted_ids, sort_index, owners, halves, tile_ranges, list, slots, list_halves);             \
  }
GNS_TILE_KERNELS(, short)
GNS_TILE_KERNELS(_wide, int)
