// Visible Gaussians, near to far; equal depths keep the order of their indices.
#include <algorithm>

#include "frame.h"

namespace gns {

// Least significant digit first, 11 bits at a time. Keys are bits of positive floats, which order like the floats.
template <> void sort_by_depth(Frame<float>& frame) {
  constexpr int kDigits = 3, kBits = 11, kBuckets = 1 << kBits;
  const int n = frame.visible;
  Key* from = frame.keys.get();
  Key* to = frame.keys_sorted.ensure(frame.count);
  static thread_local uint32_t counts[kDigits][kBuckets];
  std::fill(&counts[0][0], &counts[0][0] + kDigits * kBuckets, 0u);
  for (int i = 0; i < n; ++i)
    for (int digit = 0; digit < kDigits; ++digit) ++counts[digit][from[i].depth >> (digit * kBits) & (kBuckets - 1)];
  for (int digit = 0; digit < kDigits; ++digit) {
    uint32_t position = 0;
    for (uint32_t& count : counts[digit]) {
      const uint32_t begin = position;
      position += count;
      count = begin;
    }
    for (int i = 0; i < n; ++i) to[counts[digit][from[i].depth >> (digit * kBits) & (kBuckets - 1)]++] = from[i];
    std::swap(from, to);
  }
  // Three passes: the result lies in keys_sorted, from which the last swap took `from`.
}

template <> void sort_by_depth(Frame<double>& frame) {
  Key* sorted = frame.keys_sorted.ensure(frame.count);
  std::copy_n(frame.keys.get(), frame.visible, sorted);
  std::stable_sort(sorted, sorted + frame.visible, [&](const Key& a, const Key& b) {
    return frame.splats[a.gaussian].depth < frame.splats[b.gaussian].depth;
  });
}

}  // namespace gns
