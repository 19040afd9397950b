// Adam (Kingma & Ba, 2015) with torch's semantics, over whole tensors; clears the gradient while it is at hand.
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
    const V beta1(float(t.beta1)), beta2(float(t.beta2)), rest1(float(1 - t.beta1)), rest2(float(1 - t.beta2));
    const V step(t.step), root(t.inverse_root), epsilon(t.epsilon);
    for (size_t i = piece * kPiece; i < last; i += W) {
      const int lanes = last - i < size_t(W) ? static_cast<int>(last - i) : W;
      const V g = load_first(t.gradient + i, lanes);
      const V m = fma(beta1, load_first(t.first + i, lanes), rest1 * g);
      const V v = fma(beta2, load_first(t.second + i, lanes), rest2 * g * g);
      const V p = fnma(step, m / fma(sqrt(v), root, epsilon), load_first(t.parameter + i, lanes));
      store_first(m, t.first + i, lanes);
      store_first(v, t.second + i, lanes);
      store_first(p, t.parameter + i, lanes);
      store_first(V(0.0f), t.gradient + i, lanes);
    }
  });
}

}  // namespace gns::GNS_ISA
