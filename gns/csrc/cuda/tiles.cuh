// Which tiles a Gaussian meets. project counts them and emit lists them, both by the one function below on the same
// stored numbers: two that differ by a rounding would write past the end of a list.
#pragma once

#include "device.cuh"

namespace gns {

// Where the α ≥ 1/255 ellipse of a Gaussian lies.
struct Footprint {
  Ellipse<float> ellipse;
  int x0, x1, y0, y1;  // its PixelBox
};

// Two numbers below 65536 in one register, and back.
GNS_DEVICE unsigned pack_span(int first, int last) { return unsigned(first) | unsigned(last) << 16; }
GNS_DEVICE int span_first(unsigned span) { return int(span & 0xFFFFu); }
GNS_DEVICE int span_last(unsigned span) { return int(span >> 16); }

// The first float4 of a splat holds (x, y) and the pixel box; the footprint's two hold the rest.
GNS_DEVICE Footprint load_footprint(const float4* splats, const float4* footprints, size_t i) {
  const float4 place = splats[i * kSplat], shape = footprints[i * kFootprint], rest = footprints[i * kFootprint + 1];
  const unsigned columns = __float_as_uint(place.z), rows = __float_as_uint(place.w);
  return {{place.x, place.y, shape.x, shape.y, shape.z, shape.w, rest.x, rest.y},
          span_first(columns),
          span_last(columns),
          span_first(rows),
          span_last(rows)};
}

struct Span { int first, last; };  // inclusive; empty where first > last

// Pixel rows that the ellipse meets within the `columns` pixel columns from number `x` on.
GNS_DEVICE Span rows_of_strip(const Footprint& f, int x, int columns) {
  const Strip<float> strip = strip_met(f.ellipse, float(x) + 0.5f - f.ellipse.x, columns);
  if (!(strip.low <= strip.high)) return {1, 0};
  const RowSpan<float> rows = rows_met(f.ellipse, f.y0, f.y1, strip);
  if (!(rows.first <= rows.last)) return {1, 0};
  return {int(rows.first), int(rows.last)};
}

// Tile rows that the ellipse meets within one column of tiles.
GNS_DEVICE Span tiles_of_column(const Footprint& f, int tile_x) {
  const Span rows = rows_of_strip(f, tile_x * kTile, kTile);
  return rows.first <= rows.last ? Span{rows.first / kTile, rows.last / kTile} : rows;
}

// A tile is 2 × 4 half quadrants, of 8 × 4 pixels each: a bit for each, column by column, top to bottom.
constexpr int kQuadrant = 8;        // pixels, both ways
constexpr int kHalf = 4;            // rows of a half quadrant
constexpr int kHalves = kTile / kHalf;  // in a column

// Half quadrants of tile row `tile_y` that pixel rows `rows` meet in one column of them.
GNS_DEVICE unsigned halves_met(const Span& rows, int tile_y) {
  const int top = tile_y * kTile;
  const int first = rows.first > top ? rows.first - top : 0;
  const int last = rows.last < top + kTile ? rows.last - top : kTile - 1;
  return first <= last ? (2u << unsigned(last) / kHalf) - (1u << unsigned(first) / kHalf) : 0u;
}

GNS_DEVICE int first_column(const Footprint& f) { return f.x0 / kTile; }
GNS_DEVICE int last_column(const Footprint& f) { return f.x1 / kTile; }

GNS_DEVICE int span_length(Span span) { return span.last - span.first + 1; }  // {1, 0} has none

}  // namespace gns
