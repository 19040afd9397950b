// This build's entry in the table of instruction sets.
#include "kernels.h"
#include "simd.h"

#define GNS_STRING_OF(x) #x
#define GNS_STRING(x) GNS_STRING_OF(x)

namespace gns::GNS_ISA {

template <class T> constexpr Kernels<T> kKernels = {
    project<T>, list_instances<T>, blend<T>, blend_backward<T>, project_backward<T>, photometric_loss<T>};

extern const InstructionSet kInstructionSet;
const InstructionSet kInstructionSet = {GNS_STRING(GNS_ISA), Vec<float>::width, kKernels<float>, kKernels<double>,
                                        adam};

}  // namespace gns::GNS_ISA
