// Adam over up to six whole tensors at once; clears the gradients while they are at hand.
//
// A block takes 1024 elements of one tensor, a thread four of them that lie a block apart, all loaded before the first
// is stored: what counts here is how many loads are in flight.
#include "device.cuh"
#include "adam_math.h"

namespace gns {

constexpr int kEach = 4;
constexpr int kAdamThreads = 256;

struct AdamTensor {
  int count;
  float *parameter, *gradient, *first_moment, *second_moment;
  float step, inverse_root;  // rate/(1 − β₁ᵗ) and 1/sqrt(1 − β₂ᵗ): tensors may have made different numbers of steps
  float keep;                // 1 − decay
};

GNS_DEVICE int adam_blocks(int count) {
  constexpr unsigned kPart = kEach * kAdamThreads;
  return int((unsigned(count) + kPart - 1) / kPart);
}

// The part of a tensor that is the turn of its block number `block`.
GNS_DEVICE void step_part(const AdamTensor& t, int block, const AdamFactors<float>& factors) {
  const size_t begin = size_t(block) * kEach * kAdamThreads + threadIdx.x, end = size_t(t.count);
  AdamElement<float> element[kEach];
  float gradient[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const size_t i = begin + k * kAdamThreads;
    if (i >= end) break;
    element[k] = {t.parameter[i], t.first_moment[i], t.second_moment[i]};
    gradient[k] = t.gradient[i];
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const size_t i = begin + k * kAdamThreads;
    if (i >= end) break;
    const AdamElement<float> after = adam_step(element[k], gradient[k], factors);
    t.parameter[i] = after.parameter;
    t.first_moment[i] = after.first_moment;
    t.second_moment[i] = after.second_moment;
    t.gradient[i] = 0.0f;
  }
}

}  // namespace gns

#define GNS_ADAM_ARGUMENTS(k)                                                                                         \
  int count##k, float *parameter##k, float *gradient##k, float *first_moment##k, float *second_moment##k,              \
      float step##k, float inverse_root##k, float keep##k
// Goes on from one tensor to the next until the block's number lies within it.
#define GNS_ADAM_SEEK(k)                                                                                              \
  if (rest >= 0) {                                                                                                    \
    tensor = {count##k, parameter##k, gradient##k, first_moment##k, second_moment##k, step##k, inverse_root##k,       \
              keep##k};                                                                                               \
    block = rest;                                                                                                     \
    rest -= gns::adam_blocks(count##k);                                                                               \
  }

// Tensors that are not there have a count of zero. The blocks of all tensors together are the grid.
extern "C" __global__ void __launch_bounds__(256)
    adam(GNS_ADAM_ARGUMENTS(0), GNS_ADAM_ARGUMENTS(1), GNS_ADAM_ARGUMENTS(2), GNS_ADAM_ARGUMENTS(3),
         GNS_ADAM_ARGUMENTS(4), GNS_ADAM_ARGUMENTS(5), float beta1, float one_minus_beta1, float beta2,
         float one_minus_beta2, float epsilon) {
  gns::AdamTensor tensor = {};
  int block = 0, rest = int(blockIdx.x);
  GNS_ADAM_SEEK(0)
  GNS_ADAM_SEEK(1)
  GNS_ADAM_SEEK(2)
  GNS_ADAM_SEEK(3)
  GNS_ADAM_SEEK(4)
  GNS_ADAM_SEEK(5)
  gns::step_part(tensor, block,
                 {beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, tensor.step, tensor.inverse_root,
                  tensor.keep});
}
