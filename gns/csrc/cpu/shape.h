// How a register's lanes cover pixels. A tile of 16×16 is cut into upright strips, a strip into blocks of one register
// each: 8×2 pixels with sixteen lanes, 8×1 with eight, 4×1 with four. Small blocks waste fewer lanes on small Gaussians.
#pragma once

#include "frame.h"
#include "simd.h"

namespace gns::GNS_ISA {

template <class T> struct Shape {
  static constexpr int lanes = Vec<T>::width;
  static constexpr int block_width = lanes >= 8 ? 8 : lanes;
  static constexpr int block_height = lanes / block_width;
  static constexpr int strips = kTile / block_width;
  static constexpr int rows = kTile / block_height;  // of blocks, in a strip
  static_assert(strips * rows <= 64, "one bit a block");
};

}  // namespace gns::GNS_ISA
