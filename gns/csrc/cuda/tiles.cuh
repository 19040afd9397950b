// Which tiles a Gaussian meets. project counts them and emit lists them, both by the one function below on the same
// stored numbers: two that differ by a rounding would write past the end of a list.
#pragma once

#include "device.cuh"

namespace gns {

// Where the α ≥ 1/255 ellipse of a Gaussian lies, which is at (x, y). At pixel offset d from it the ellipse spans
// y = slope·d ± sqrt(residual·(level − d²·inverse_a)), and reaches its highest point at d = x_top.
struct Footprint {
  float x, y;
  float half_width, level, inverse_a, slope, residual, x_top;
  int x0, x1, y0, y1;  // inclusive pixel box, clipped to the image
};

// Two numbers below 65536 in one register, and back.
GNS_DEVICE unsigned pack_span(int first, int last) { return unsigned(first) | unsigned(last) << 16; }
GNS_DEVICE int span_first(unsigned span) { return int(span & 0xFFFFu); }
GNS_DEVICE int span_last(unsigned span) { return int(span >> 16); }

// The first float4 of a splat holds (x, y) and the pixel box; the footprint's two hold the rest.
GNS_DEVICE Footprint load_footprint(const float4* splats, const float4* footprints, size_t i) {
  const float4 place = splats[i * kSplat], shape = footprints[i * kFootprint], rest = footprints[i * kFootprint + 1];
  const unsigned columns = __float_as_uint(place.z), rows = __float_as_uint(place.w);
  return {place.x, place.y, shape.x, shape.y, shape.z,           shape.w,          rest.x,
          rest.y,  span_first(columns),       span_last(columns), span_first(rows), span_last(rows)};
}

struct TileSpan { int first, last; };  // inclusive; empty where first > last

// Tile rows that the ellipse meets within one column of tiles: from its highest and lowest point there.
GNS_DEVICE TileSpan tiles_of_column(const Footprint& f, int tile_x) {
  constexpr float kSlack = 1.0f / 512;  // pixels; far more than rounding can move a boundary
  const float left = float(tile_x * kTile) + 0.5f - f.x, right = left + float(kTile - 1);
  const float low = max(left, -f.half_width), high = min(right, f.half_width);
  if (!(low <= high)) return {1, 0};
  auto reach = [&](float d) { return sqrt(max(0.0f, fnma(d * d, f.inverse_a, f.level) * f.residual)); };
  const float d_top = min(max(f.x_top, low), high), d_bottom = min(max(-f.x_top, low), high);
  const float bottom = fma(f.slope, d_bottom, f.y) - reach(d_bottom);
  const float top = fma(f.slope, d_top, f.y) + reach(d_top);
  // As pixel rows, held to the Gaussian's own box.
  const float first = max(ceilf(bottom - (0.5f + kSlack)), float(f.y0));
  const float last = min(floorf(top - (0.5f - kSlack)), float(f.y1));
  if (!(first <= last)) return {1, 0};
  return {int(first) / kTile, int(last) / kTile};
}

GNS_DEVICE int first_column(const Footprint& f) { return f.x0 / kTile; }
GNS_DEVICE int last_column(const Footprint& f) { return f.x1 / kTile; }

GNS_DEVICE int span_length(TileSpan span) { return span.last - span.first + 1; }  // {1, 0} has none

}  // namespace gns
