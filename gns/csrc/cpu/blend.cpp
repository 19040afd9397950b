// Blending the splats of every tile, near to far, and its backward pass, a block of pixels at a time.
#include <type_traits>

#include "frame.h"
#include "kernels.h"
#include "shape.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {
namespace {

// Pixel centres of a block, relative to its corner, lane by lane.
template <class T> struct PixelOffsets {
  alignas(64) T x[Shape<T>::lanes], y[Shape<T>::lanes];
  constexpr PixelOffsets() : x(), y() {
    for (int k = 0; k < Shape<T>::lanes; ++k) {
      x[k] = T(k % Shape<T>::block_width) + T(0.5);
      y[k] = T(k / Shape<T>::block_width) + T(0.5);
    }
  }
};
template <class T> constexpr PixelOffsets<T> kPixelOffsets{};

// Where each block of a strip begins, from a table: the loops below have no time to convert integers.
template <class T> struct RowOffsets {
  T y[Shape<T>::rows];
  constexpr RowOffsets() : y() {
    for (int row = 0; row < Shape<T>::rows; ++row) y[row] = T(row * Shape<T>::block_height);
  }
};
template <class T> constexpr RowOffsets<T> kRowOffsets{};

// One tile: where it lies and which of its blocks hold pixels of the image.
template <class T> struct TileView {
  using S = Shape<T>;
  int x, y, width, height;  // corner; how much of the tile lies inside the image
  uint64_t inside;

  TileView(const Frame<T>& frame, int tile) {
    x = tile % frame.tiles_x * kTile;
    y = tile / frame.tiles_x * kTile;
    width = frame.camera.width - x < kTile ? frame.camera.width - x : kTile;
    height = frame.camera.height - y < kTile ? frame.camera.height - y : kTile;
    inside = 0;
    for (int s = 0; s < S::strips; ++s)
      for (int r = 0; r < S::rows; ++r)
        if (s * S::block_width < width && r * S::block_height < height) inside |= uint64_t(1) << (s * S::rows + r);
  }

  // Calls body(block-ordered index of the first pixel, row in the tile, column in the tile, pixels) for each run of
  // neighbouring pixels of one row of one block that lies inside the image. Whole runs pass their length as a constant,
  // so that the body's loop over it becomes vector instructions.
  template <class Body> GNS_INLINE void each_run(Body body) const {
    for (int s = 0; s < S::strips; ++s) {
      const int column = s * S::block_width, pixels = width - column;
      if (pixels <= 0) break;
      for (int row = 0; row < height; ++row) {
        const int first = (s * S::rows + row / S::block_height) * S::lanes + row % S::block_height * S::block_width;
        if (pixels >= S::block_width) {
          body(first, row, column, std::integral_constant<int, S::block_width>());
        } else {
          body(first, row, column, pixels);
        }
      }
    }
  }
};

// A Gaussian seen from the pixels of the strip whose first column is `x`.
template <class T> GNS_INLINE Column<Vec<T>> column_of(const Splat<T>& splat, int x) {
  return {Vec<T>(splat.x - T(x)) - Vec<T>::load(kPixelOffsets<T>.x), splat.qa, splat.qb, splat.ql};
}

template <class T> GNS_INLINE bool all_stopped(Vec<T> transmittance) {
  constexpr unsigned full = (1u << Shape<T>::lanes) - 1;
  return bits(transmittance < Vec<T>(T(0))) == full;
}

template <class T> GNS_INLINE T sum_of_lanes(Vec<T> a) {
  T lanes[Vec<T>::width];
  a.store(lanes);
  for (int half = Vec<T>::width / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

template <class T> GNS_INLINE void prefetch_splat(const Frame<T>& frame, uint32_t i, uint32_t end) {
  constexpr uint32_t ahead = 6;
  if (i + ahead < end) __builtin_prefetch(&frame.splats[frame.list[i + ahead].gaussian]);
}

// The slot to be written soon: slots of neighbouring instances lie all over the memory.
template <class T> GNS_INLINE void prefetch_packet(const Frame<T>& frame, uint32_t i, uint32_t end) {
  constexpr uint32_t ahead = 3;
  if (i + ahead < end) {
    const T* packet = frame.packets.get() + size_t(frame.list[i + ahead].slot) * kPacket;
    __builtin_prefetch(packet, 1);
    __builtin_prefetch(packet + kPacket - 1, 1);
  }
}

// Pixels start at transmittance 1; those outside the image have stopped before they start.
template <class T> void begin_transmittance(const TileView<T>& view, T* transmittance) {
  for (int i = 0; i < kPixels; ++i) transmittance[i] = T(-1);
  view.each_run([&](int pixel, int, int, auto pixels) {
    for (int k = 0; k < pixels; ++k) transmittance[pixel + k] = T(1);
  });
}

// kMaps: inverse depth and counts too.
template <class T, bool kColour, bool kScore, bool kMaps>
void blend_tile(Frame<T>& frame, int tile, const T* background, const Pictures<T>& pictures, const T* edges) {
  using V = Vec<T>;
  using S = Shape<T>;
  const TileView<T> view(frame, tile);
  const uint32_t begin = frame.tile_begin[tile], end = frame.tile_begin[tile + 1];
  const size_t stride = frame.camera.width, plane = stride * frame.camera.height;
  alignas(64) T colour[3][kPixels];
  alignas(64) T edge[kPixels];
  alignas(64) T inverse_depth[kPixels], counts[kPixels];
  T* transmittance = frame.transmittance.get() + size_t(tile) * kPixels;
  begin_transmittance(view, transmittance);
  if constexpr (kColour) __builtin_memset(colour, 0, sizeof colour);
  if constexpr (kMaps) {
    __builtin_memset(inverse_depth, 0, sizeof inverse_depth);
    __builtin_memset(counts, 0, sizeof counts);
  }
  if constexpr (kScore) {
    __builtin_memset(edge, 0, sizeof edge);
    view.each_run([&](int pixel, int row, int column, auto pixels) {
      for (int k = 0; k < pixels; ++k) edge[pixel + k] = edges[(view.y + row) * stride + view.x + column + k];
    });
  }

  uint64_t alive = view.inside;
  const V lane_y = V::load(kPixelOffsets<T>.y);
  uint32_t i = begin;
  for (; i < end && alive; ++i) {
    prefetch_splat(frame, i, end);
    const Instance instance = frame.list[i];
    const uint64_t live = instance.blocks & alive;
    const Splat<T>& splat = frame.splats[instance.gaussian];
    const V qc(splat.qc), top = V(splat.y - T(view.y)) - lane_y;
    [[maybe_unused]] const V inverse_z(kMaps ? T(1) / splat.depth : T(0));
    V score(T(0));
    for (int s = 0; s < S::strips; ++s) {
      constexpr uint64_t strip_bits = S::rows == 64 ? ~uint64_t(0) : (uint64_t(1) << S::rows) - 1;
      uint64_t rows = live >> (s * S::rows) & strip_bits;
      if (!rows) continue;
      const Column<V> column = column_of(splat, view.x + s * S::block_width);
      for (; rows; rows &= rows - 1) {
        const int row = __builtin_ctzll(rows), block = s * S::rows + row, pixel = block * S::lanes;
        const V dy = top - V(kRowOffsets<T>.y[row]);
        const V t = V::load(transmittance + pixel);
        const Contribution<V> c(column, qc, dy, t);
        const V weight = c.weight(t);
        if constexpr (kColour) {
          fma(weight, V(splat.red), V::load(colour[0] + pixel)).store(colour[0] + pixel);
          fma(weight, V(splat.green), V::load(colour[1] + pixel)).store(colour[1] + pixel);
          fma(weight, V(splat.blue), V::load(colour[2] + pixel)).store(colour[2] + pixel);
        }
        if constexpr (kMaps) {
          fma(weight, inverse_z, V::load(inverse_depth + pixel)).store(inverse_depth + pixel);
          (V::load(counts + pixel) + zero_unless(c.kept, V(T(1)))).store(counts + pixel);
        }
        if constexpr (kScore) score = fma(weight, V::load(edge + pixel), score);
        const V after = c.advance(t);
        after.store(transmittance + pixel);
        if (any(andnot(c.drawn, c.kept)) && all_stopped(after)) [[unlikely]] alive &= ~(uint64_t(1) << block);
      }
    }
    if constexpr (kScore) frame.scores[instance.slot] = sum_of_lanes(score);
  }
  if constexpr (kScore)
    for (; i < end; ++i) frame.scores[frame.list[i].slot] = T(0);

  auto left = [&](int pixel) { return std::abs(transmittance[pixel]); };
  if constexpr (kColour) {
    view.each_run([&](int pixel, int row, int column, auto pixels) {
      for (int channel = 0; channel < 3; ++channel) {
        T* out = pictures.image + channel * plane + (view.y + row) * stride + view.x + column;
        for (int k = 0; k < pixels; ++k)
          out[k] = over_background(colour[channel][pixel + k], left(pixel + k), background[channel]);
      }
    });
  }
  if (pictures.alpha) {
    view.each_run([&](int pixel, int row, int column, auto pixels) {
      T* out = pictures.alpha + (view.y + row) * stride + view.x + column;
      for (int k = 0; k < pixels; ++k) out[k] = T(1) - left(pixel + k);
    });
  }
  if constexpr (kMaps) {
    view.each_run([&](int pixel, int row, int column, auto pixels) {
      const size_t at = (view.y + row) * stride + view.x + column;
      for (int k = 0; k < pixels; ++k) {
        if (pictures.inverse_depth) pictures.inverse_depth[at + k] = inverse_depth[pixel + k];
        if (pictures.counts) pictures.counts[at + k] = static_cast<int32_t>(counts[pixel + k]);
      }
    });
  }
}

#if defined(GNS_COUNTERS)
// How many (pixel, Gaussian) pairs contribute in one tile: what the blending loops' time is measured against.
template <class T> size_t count_tile_pairs(const Frame<T>& frame, int tile) {
  using V = Vec<T>;
  using S = Shape<T>;
  const TileView<T> view(frame, tile);
  alignas(64) T transmittance[kPixels];
  begin_transmittance(view, transmittance);
  const V lane_y = V::load(kPixelOffsets<T>.y);
  size_t pairs = 0;
  for (uint32_t i = frame.tile_begin[tile]; i < frame.tile_begin[tile + 1]; ++i) {
    const Splat<T>& splat = frame.splats[frame.list[i].gaussian];
    const V top = V(splat.y - T(view.y)) - lane_y;
    for (uint64_t rest = frame.list[i].blocks & view.inside; rest; rest &= rest - 1) {
      const int block = __builtin_ctzll(rest), pixel = block * S::lanes;
      const Column<V> column = column_of(splat, view.x + block / S::rows * S::block_width);
      const V dy = top - V(T(block % S::rows * S::block_height)), t = V::load(transmittance + pixel);
      const Contribution<V> c(column, V(splat.qc), dy, t);
      pairs += __builtin_popcount(bits(c.kept));
      c.advance(t).store(transmittance + pixel);
    }
  }
  return pairs;
}
#endif

// Leaves the packet of every instance of one tile.
template <class T, bool kAbsolute, bool kDepth>
void blend_tile_backward(Frame<T>& frame, int tile, const PictureGradients<T>& in) {
  using V = Vec<T>;
  using S = Shape<T>;
  const TileView<T> view(frame, tile);
  const uint32_t begin = frame.tile_begin[tile], end = frame.tile_begin[tile + 1];
  const size_t stride = frame.camera.width, plane = stride * frame.camera.height;
  alignas(64) T transmittance[kPixels], gradient[3][kPixels] = {}, behind[kPixels] = {};
  alignas(64) T depth_gradient[kPixels];
  if constexpr (kDepth) __builtin_memset(depth_gradient, 0, sizeof depth_gradient);
  begin_transmittance(view, transmittance);
  const T* final_transmittance = frame.transmittance.get() + size_t(tile) * kPixels;
  view.each_run([&](int pixel, int row, int column, auto pixels) {
    const size_t at = (view.y + row) * stride + view.x + column;
    auto colour_at = [&](const T* planes, int k) -> Colour<T> {
      return {planes[at + k], planes[plane + at + k], planes[2 * plane + at + k], T(0)};
    };
    for (int k = 0; k < pixels; ++k) {
      const Colour<T> g = colour_at(in.by_image, k);
      gradient[0][pixel + k] = g.red;
      gradient[1][pixel + k] = g.green;
      gradient[2][pixel + k] = g.blue;
      behind[pixel + k] = all_behind(g, colour_at(in.image, k));
    }
    if (in.by_alpha)
      for (int k = 0; k < pixels; ++k)
        behind[pixel + k] =
            alpha_behind(behind[pixel + k], in.by_alpha[at + k], std::abs(final_transmittance[pixel + k]));
    if constexpr (kDepth)
      for (int k = 0; k < pixels; ++k) {
        depth_gradient[pixel + k] = in.by_inverse_depth[at + k];
        behind[pixel + k] = depth_behind(behind[pixel + k], in.by_inverse_depth[at + k], in.inverse_depth[at + k]);
      }
  });

  uint64_t alive = view.inside;
  const V lane_y = V::load(kPixelOffsets<T>.y);
  T* packets = frame.packets.get();
  uint32_t i = begin;
  for (; i < end && alive; ++i) {
    prefetch_splat(frame, i, end);
    prefetch_packet(frame, i, end);
    const Instance instance = frame.list[i];
    const uint64_t live = instance.blocks & alive;
    const Splat<T>& splat = frame.splats[instance.gaussian];
    const V qc(splat.qc), top = V(splat.y - T(view.y)) - lane_y;
    const V zero(T(0));
    const Colour<T> colour = {splat.red, splat.green, splat.blue, kDepth ? T(1) / splat.depth : T(0)};
    PixelSums<V> sums = {zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero};
    for (int s = 0; s < S::strips; ++s) {
      constexpr uint64_t strip_bits = S::rows == 64 ? ~uint64_t(0) : (uint64_t(1) << S::rows) - 1;
      uint64_t rows = live >> (s * S::rows) & strip_bits;
      if (!rows) continue;
      const Column<V> column = column_of(splat, view.x + s * S::block_width);
      const ConicColumn<V> conic(splat.conic, column.dx);
      for (; rows; rows &= rows - 1) {
        const int row = __builtin_ctzll(rows), block = s * S::rows + row, pixel = block * S::lanes;
        const V dy = top - V(kRowOffsets<T>.y[row]);
        const V t = V::load(transmittance + pixel);
        const Contribution<V> c(column, qc, dy, t);
        PixelGradient<V> g = {
            {V::load(gradient[0] + pixel), V::load(gradient[1] + pixel), V::load(gradient[2] + pixel),
             kDepth ? V::load(depth_gradient + pixel) : zero},
            V::load(behind + pixel)};
        add_pixel<kAbsolute, kDepth>(sums, g, c, t, colour, conic, dy);
        g.behind.store(behind + pixel);
        const V after = c.advance(t);
        after.store(transmittance + pixel);
        if (any(andnot(c.drawn, c.kept)) && all_stopped(after)) [[unlikely]] alive &= ~(uint64_t(1) << block);
      }
    }
    const V packet[kPacket] = {sums.red,   sums.green, sums.blue, sums.h,  sums.x,  sums.y,
                               sums.abs_x, sums.abs_y, sums.xx,   sums.xy, sums.yy, sums.inverse_depth};
    sum_lanes<T>(packet, packets + size_t(instance.slot) * kPacket);
  }
  for (; i < end; ++i) __builtin_memset(packets + size_t(frame.list[i].slot) * kPacket, 0, kPacket * sizeof(T));
}

}  // namespace

template <class T>
void blend(Frame<T>& frame, const T* background, const Pictures<T>& pictures, const T* edges, T* importance) {
  const int tiles = frame.tiles_x * frame.tiles_y;
  const bool maps = pictures.inverse_depth || pictures.counts;
  frame.transmittance.ensure(size_t(tiles) * kPixels);
  if (importance) frame.scores.ensure(frame.instances);
  parallel_for(tiles, [&](int tile) {
    if (maps) {
      blend_tile<T, true, false, true>(frame, tile, background, pictures, edges);
      if (importance) blend_tile<T, false, true, false>(frame, tile, background, pictures, edges);
    } else if (pictures.image && importance) {
      blend_tile<T, true, true, false>(frame, tile, background, pictures, edges);
    } else if (importance) {
      blend_tile<T, false, true, false>(frame, tile, background, pictures, edges);
    } else {
      blend_tile<T, true, false, false>(frame, tile, background, pictures, edges);
    }
  });
  if (!importance) return;
  parallel_for((frame.count + kGroup - 1) / kGroup, [&](int group) {
    const int first = group * kGroup, last = first + kGroup < frame.count ? first + kGroup : frame.count;
    for (int i = first; i < last; ++i) {
      T sum = 0;
      for (uint32_t s = 0; s < frame.slot_count[i]; ++s) sum += frame.scores[size_t(frame.slot_begin[i]) + s];
      importance[i] = sum;
    }
  });
}

template <class T>
void blend_backward(Frame<T>& frame, const PictureGradients<T>& in, bool absolute) {
  frame.packets.ensure(frame.instances * kPacket);
  parallel_for(frame.tiles_x * frame.tiles_y, [&](int tile) {
    // With a depth both, for want of a reason to build a fourth: the absolute sums cost a few percent.
    if (in.by_inverse_depth) return blend_tile_backward<T, true, true>(frame, tile, in);
    if (absolute) return blend_tile_backward<T, true, false>(frame, tile, in);
    return blend_tile_backward<T, false, false>(frame, tile, in);
  });
}

#if defined(GNS_COUNTERS)
template <class T> size_t count_pairs(const Frame<T>& frame) {
  size_t pairs = 0;
  for (int tile = 0; tile < frame.tiles_x * frame.tiles_y; ++tile) pairs += count_tile_pairs(frame, tile);
  return pairs;
}
template size_t count_pairs<float>(const Frame<float>&);
template size_t count_pairs<double>(const Frame<double>&);
#endif

#define GNS_INSTANTIATE(T)                                                              \
  template void blend<T>(Frame<T>&, const T*, const Pictures<T>&, const T*, T*);        \
  template void blend_backward<T>(Frame<T>&, const PictureGradients<T>&, bool);
GNS_INSTANTIATE(float)
GNS_INSTANTIATE(double)

}  // namespace gns::GNS_ISA
