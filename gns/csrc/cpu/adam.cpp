// Adam over whole tensors; clears the gradient while it is at hand.
#include "../adam_math.h"
#include "frame.h"
#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace gns::GNS_ISA {

void adam(const AdamTensor* tensors, int count) {
  using V = Vec<float>;
  constexpr int W = V::width;
  constexpr size_t kPiece = 1 << 14;
  int tasks = 0;
  for (int i = 0; i < count; ++i) tasks += static_cast<int>((tensors[i].count + kPiece - 1) / kPiece);

  parallel_for(tasks, [&](int task) {
    const AdamTensor* tensor = tensors;
    size_t piece = task;
    for (;; ++tensor) {
      const size_t pieces = (tensor->count + kPiece - 1) / kPiece;
      if (piece < pieces) break;
      piece -= pieces;
    }
    const AdamTensor& t = *tensor;
    const size_t last = (piece + 1) * kPiece < t.count ? (piece + 1) * kPiece : t.count;
    const AdamFactors<V> factors = {float(t.beta1), float(1 - t.beta1), float(t.beta2), float(1 - t.beta2),
                                    t.epsilon,      t.step,             t.inverse_root, t.keep};
    for (size_t i = piece * kPiece; i < last; i += W) {
      const int lanes = last - i < size_t(W) ? static_cast<int>(last - i) : W;
      const AdamElement<V> before = {load_first(t.parameter + i, lanes), load_first(t.first + i, lanes),
                                     load_first(t.second + i, lanes)};
      const AdamElement<V> after = adam_step(before, load_first(t.gradient + i, lanes), factors);
      store_first(after.parameter, t.parameter + i, lanes);
      store_first(after.first_moment, t.first + i, lanes);
      store_first(after.second_moment, t.second + i, lanes);
      store_first(V(0.0f), t.gradient + i, lanes);
    }
  });
}

}  // namespace gns::GNS_ISA
