// This build's entry in the table of instruction sets.
#include "kernels.h"
#include "simd.h"
#include "threads.h"

#define GNS_STRING_OF(x) #x
#define GNS_STRING(x) GNS_STRING_OF(x)

namespace gns::GNS_ISA {

#if defined(GNS_COUNTERS)
// The machine's ceiling, for benchmarks: every thread does `rounds` times twelve independent fused multiply-adds a lane.
// Returns the number of them in all.
double multiply_adds(int64_t rounds) {
  using V = Vec<float>;
  constexpr int kChains = 12;  // enough to hide the latency of two pipes
  const int threads = thread_count();
  parallel_for(threads, [&](int) {
    V sum[kChains];
    for (int k = 0; k < kChains; ++k) sum[k] = V(float(k));
    const V factor(0.999f), term(0.001f);
    for (int64_t i = 0; i < rounds; ++i)
      for (int k = 0; k < kChains; ++k) sum[k] = fma(sum[k], factor, term);
    for (int k = 1; k < kChains; ++k) sum[0] += sum[k];
    float lanes[V::width];
    sum[0].store(lanes);
    volatile float keep = lanes[0];  // or the compiler drops the loop
    (void)keep;
  });
  return double(rounds) * kChains * V::width * threads;
}
#endif

template <class T> constexpr Kernels<T> kKernels = {
    project<T>, list_instances<T>, blend<T>, blend_backward<T>, project_backward<T>, photometric_loss<T>,
    dissimilarity<T>,
#if defined(GNS_COUNTERS)
    count_pairs<T>,
#endif
};

extern const InstructionSet kInstructionSet;
const InstructionSet kInstructionSet = {
    GNS_STRING(GNS_ISA), kKernels<float>, kKernels<double>, adam,
#if defined(GNS_COUNTERS)
    Vec<float>::width, multiply_adds,
#endif
};

}  // namespace gns::GNS_ISA
