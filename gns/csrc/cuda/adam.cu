// Adam (Kingma & Ba, 2015) with torch's semantics, over one whole tensor; clears the gradient while it is at hand.
//
// A block takes 1024 elements, a thread four of them that lie a block apart, all loaded before the first is stored:
// what counts here is how many loads are in flight.
extern "C" __global__ void __launch_bounds__(256)
    adam(int count, float* __restrict__ parameter, float* __restrict__ gradient, float* __restrict__ first_moment,
         float* __restrict__ second_moment, float beta1, float one_minus_beta1, float beta2, float one_minus_beta2,
         float step, float inverse_root, float epsilon) {
  constexpr int kEach = 4;
  const size_t begin = size_t(blockIdx.x) * kEach * blockDim.x + threadIdx.x, end = size_t(count);
  float p[kEach], g[kEach], m[kEach], v[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const size_t i = begin + k * blockDim.x;
    if (i >= end) break;
    p[k] = parameter[i];
    g[k] = gradient[i];
    m[k] = first_moment[i];
    v[k] = second_moment[i];
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const size_t i = begin + k * blockDim.x;
    if (i >= end) break;
    m[k] = fmaf(beta1, m[k], one_minus_beta1 * g[k]);
    v[k] = fmaf(beta2, v[k], one_minus_beta2 * g[k] * g[k]);
    parameter[i] = fmaf(-step, m[k] / fmaf(sqrtf(v[k]), inverse_root, epsilon), p[k]);
    first_moment[i] = m[k];
    second_moment[i] = v[k];
    gradient[i] = 0.0f;
  }
}
