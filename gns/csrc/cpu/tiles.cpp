// Which Gaussian meets which block of pixels: the list of every tile, near to far.
#include "frame.h"
#include "kernels.h"
#include "shape.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

void push(Stage& stage, StagedInstance instance) {
  if (stage.count == stage.capacity) {
    const size_t capacity = stage.capacity ? stage.capacity * 2 : 4096;
    void* data = std::realloc(stage.data, capacity * sizeof(StagedInstance));
    if (!data) throw std::bad_alloc();
    stage.data = static_cast<StagedInstance*>(data);
    stage.capacity = capacity;
  }
  stage.data[stage.count++] = instance;
}

// Bits first..last of a row of blocks.
inline uint64_t span_bits(int first, int last) { return ((uint64_t(2) << last) - 1) & ~((uint64_t(1) << first) - 1); }

// Calls visit(tile, blocks) for every tile in which the ellipse meets a block of pixels. A register holds neighbouring
// strips; the highest and lowest point of the ellipse within each strip give its rows.
template <class T, class Visit> GNS_INLINE void visit_tiles(const Frame<T>& frame, const Footprint<T>& f, Visit visit) {
  using V = Vec<T>;
  using S = Shape<T>;
  constexpr int W = V::width;
  constexpr T kSlack = T(1.0 / 512);  // pixels; far more than rounding can move a boundary
  static const auto offsets = [] {
    struct { T lane[W]; } o;
    for (int k = 0; k < W; ++k) o.lane[k] = T(k * S::block_width);
    return o;
  }();
  const int last_strip = f.x1 / S::block_width;
  for (int strip = f.x0 / kTile * S::strips; strip <= last_strip; strip += W) {
    const V left = V::load(offsets.lane) + V(T(strip * S::block_width) + T(0.5) - f.x);
    const V right = left + V(T(S::block_width - 1));
    const V low_x = max(left, V(-f.half_width)), high_x = min(right, V(f.half_width));
    const Mask<T> met = low_x <= high_x;
    auto reach = [&](V x) {  // half of the ellipse's extent in y at x
      return sqrt(max(V(T(0)), fnma(x * x, V(f.inverse_a), V(f.level)) * V(f.residual)));
    };
    const V x_top = min(max(V(f.x_top), low_x), high_x), x_bottom = min(max(V(-f.x_top), low_x), high_x);
    const V bottom = fma(V(f.slope), x_bottom, V(f.y)) - reach(x_bottom);
    const V top = fma(V(f.slope), x_top, V(f.y)) + reach(x_top);
    // As pixel rows, held to the Gaussian's own box.
    const V first = max(ceil(bottom - V(T(0.5) + kSlack)), V(T(f.y0)));
    const V last = min(floor(top - V(T(0.5) - kSlack)), V(T(f.y1)));
    int32_t first_row[W], last_row[W];
    store_int(select(met, first, V(T(1))), first_row);
    store_int(select(met, last, V(T(0))), last_row);

    for (int j = 0; j < W && strip + j <= last_strip; j += S::strips) {
      int low = INT32_MAX, high = -1;
      for (int s = j; s < j + S::strips; ++s) {
        if (first_row[s] > last_row[s]) continue;
        low = first_row[s] < low ? first_row[s] : low;
        high = last_row[s] > high ? last_row[s] : high;
      }
      const int tile_x = (strip + j) / S::strips;
      for (int tile_y = low / kTile; tile_y * kTile <= high; ++tile_y) {
        uint64_t blocks = 0;
        for (int s = 0; s < S::strips; ++s) {
          int a = first_row[j + s] - tile_y * kTile, b = last_row[j + s] - tile_y * kTile;
          a = a > 0 ? a : 0;
          b = b < kTile - 1 ? b : kTile - 1;
          if (a <= b) blocks |= span_bits(a / S::block_height, b / S::block_height) << (s * S::rows);
        }
        if (blocks) visit(tile_y * frame.tiles_x + tile_x, blocks);
      }
    }
  }
}

}  // namespace

template <class T> void list_instances(Frame<T>& frame) {
  const int tiles = frame.tiles_x * frame.tiles_y, visible = frame.visible;
  uint32_t* stage_tiles = frame.stage_tiles.ensure(size_t(kStages) * tiles);
  uint32_t* tile_begin = frame.tile_begin.ensure(tiles + 1);
  const Key* order = frame.keys_sorted.get();

  // Near Gaussians are large: short stretches of the depth order first, so that all stages weigh about the same.
  auto stage_first = [&](int stage) {
    const double part = double(stage) / kStages;
    return static_cast<int>(visible * (0.5 * part + 0.5 * part * part));
  };
  parallel_for(kStages, [&](int s) {
    Stage& stage = frame.stages[s];
    stage.count = 0;
    uint32_t* counts = stage_tiles + size_t(s) * tiles;
    __builtin_memset(counts, 0, tiles * sizeof *counts);
    const int last = s + 1 == kStages ? visible : stage_first(s + 1);
    for (int rank = stage_first(s); rank < last; ++rank) {
      const uint32_t gaussian = order[rank].gaussian;
      if (rank + 8 < last) __builtin_prefetch(&frame.footprints[order[rank + 8].gaussian]);
      const size_t before = stage.count;
      visit_tiles(frame, frame.footprints[gaussian], [&](int tile, uint64_t blocks) {
        ++counts[tile];
        push(stage, {gaussian, static_cast<uint32_t>(tile), blocks});
      });
      frame.slot_count[gaussian] = static_cast<uint32_t>(stage.count - before);
    }
  });

  size_t slots = 0;
  for (Stage& stage : frame.stages) {
    stage.first_slot = slots;
    slots += stage.count;
  }
  frame.instances = slots;
  uint32_t position = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    tile_begin[tile] = position;
    for (int s = 0; s < kStages; ++s) {
      uint32_t& count = stage_tiles[size_t(s) * tiles + tile];
      const uint32_t begin = position;
      position += count;
      count = begin;
    }
  }
  tile_begin[tiles] = position;

  Instance* list = frame.list.ensure(slots);
  parallel_for(kStages, [&](int s) {
    const Stage& stage = frame.stages[s];
    uint32_t* next = stage_tiles + size_t(s) * tiles;
    uint32_t slot = static_cast<uint32_t>(stage.first_slot), previous = UINT32_MAX;
    for (size_t i = 0; i < stage.count; ++i, ++slot) {
      const StagedInstance& staged = stage.data[i];
      if (staged.gaussian != previous) frame.slot_begin[staged.gaussian] = slot;
      previous = staged.gaussian;
      list[next[staged.tile]++] = {staged.gaussian, slot, staged.blocks};
    }
  });
}

template void list_instances<float>(Frame<float>&);
template void list_instances<double>(Frame<double>&);

}  // namespace gns::GNS_ISA
