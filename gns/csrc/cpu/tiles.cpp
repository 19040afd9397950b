// Which Gaussian meets which block of pixels: the list of every tile, near to far.
#include "frame.h"
#include "kernels.h"
#include "shape.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

// Room for `more` instances.
void reserve(Stage& stage, size_t more) {
  if (stage.count + more <= stage.capacity) return;
  const size_t capacity = stage.count + more > 2 * stage.capacity ? stage.count + more + 4096 : 2 * stage.capacity;
  void* data = std::realloc(stage.data, capacity * sizeof(StagedInstance));
  if (!data) throw std::bad_alloc();
  stage.data = static_cast<StagedInstance*>(data);
  stage.capacity = capacity;
}

template <class T> using Ints __attribute__((vector_size(sizeof(int32_t) * Vec<T>::width))) = int32_t;

// In each lane a bit for every row of blocks that pixel rows first..last meet in a tile whose uppermost row is `top`.
template <class T> GNS_INLINE Ints<T> met_rows(Ints<T> first, Ints<T> last, int top) {
  constexpr int kShift = Shape<T>::block_height == 2 ? 1 : 0;
  static_assert(Shape<T>::block_height == 1 << kShift);
  const Ints<T> zero{}, one = zero + 1, end = zero + (kTile - 1);
  const Ints<T> from = first - top, to = last - top;
  const Ints<T> low = from > zero ? from : zero, high = to < end ? to : end;
  // Lanes that meet nothing must not shift by what no shift takes.
  const Ints<T> below = one << ((low < end ? low : end) >> kShift);
  const Ints<T> upto = (one + one) << ((high > zero ? high : zero) >> kShift);
  return (upto - below) & (low <= high);
}

// Where neighbouring strips begin, relative to the first.
template <class T> struct StripOffsets {
  alignas(64) T x[Vec<T>::width];
  constexpr StripOffsets() : x() {
    for (int k = 0; k < Vec<T>::width; ++k) x[k] = T(k * Shape<T>::block_width);
  }
};
template <class T> constexpr StripOffsets<T> kStripOffsets{};

// Adds an instance for every tile in which the ellipse meets a block of pixels. A register holds neighbouring strips;
// the highest and lowest point of the ellipse within each strip give its rows. Branches here would hang on the shape of
// each Gaussian and be mispredicted: instances are written for every tile of the box, and only counted where they stay.
template <class T>
GNS_INLINE void stage_instances(const Frame<T>& frame, uint32_t gaussian, Stage& stage, uint32_t* tile_counts) {
  using V = Vec<T>;
  using S = Shape<T>;
  constexpr int W = V::width;
  constexpr int kNoRow = -1, kBelowAllRows = 1 << 24;
  const Footprint<T>& f = frame.footprints[gaussian];
  const int last_strip = f.x1 / S::block_width, last_tile_y = f.y1 / kTile;
  for (int strip = f.x0 / kTile * S::strips; strip <= last_strip; strip += W) {
    const V left = V::load(kStripOffsets<T>.x) + V(T(strip * S::block_width) + T(0.5) - f.ellipse.x);
    const Strip<V> part = strip_met(f.ellipse, left, S::block_width);
    const Mask<T> met = part.low <= part.high;
    const RowSpan<V> span = rows_met(f.ellipse, f.y0, f.y1, part);
    int32_t first_row[W], last_row[W];
    store_int(select(met, span.first, V(T(kBelowAllRows))), first_row);
    store_int(select(met, span.last, V(T(kNoRow))), last_row);
    Ints<T> first_lanes, last_lanes;
    __builtin_memcpy(&first_lanes, first_row, sizeof first_row);
    __builtin_memcpy(&last_lanes, last_row, sizeof last_row);
    uint32_t rows[W];

    const int columns = (last_strip - strip < W ? last_strip - strip : W - 1) / S::strips + 1;
    for (int tile_y = f.y0 / kTile; tile_y <= last_tile_y; ++tile_y) {
      const Ints<T> met_lanes = met_rows<T>(first_lanes, last_lanes, tile_y * kTile);
      __builtin_memcpy(rows, &met_lanes, sizeof rows);
      reserve(stage, columns);
      StagedInstance* out = stage.data + stage.count;
      uint32_t tile = static_cast<uint32_t>(tile_y * frame.tiles_x + strip / S::strips);
      for (int column = 0; column < columns; ++column, ++tile) {
        uint64_t blocks = 0;
        for (int s = 0; s < S::strips; ++s) blocks |= uint64_t(rows[column * S::strips + s]) << (s * S::rows);
        *out = {gaussian, tile, blocks};
        out += blocks != 0;
        tile_counts[tile] += blocks != 0;
      }
      stage.count = out - stage.data;
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
      stage_instances(frame, gaussian, stage, counts);
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
