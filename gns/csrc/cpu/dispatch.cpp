#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace gns {

#if defined(GNS_BUILD_X86)
namespace avx512 { extern const InstructionSet kInstructionSet; }
namespace avx2 { extern const InstructionSet kInstructionSet; }
#endif
namespace baseline { extern const InstructionSet kInstructionSet; }

namespace {

struct Available {
  const InstructionSet* sets[4] = {};
  Available() {
    int n = 0;
#if defined(GNS_BUILD_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      sets[n++] = &avx512::kInstructionSet;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[n++] = &avx2::kInstructionSet;
#endif
    sets[n++] = &baseline::kInstructionSet;
  }
};

const Available& available() {
  static const Available value;
  return value;
}

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

const InstructionSet* const* available_instruction_sets() { return available().sets; }

const InstructionSet& instruction_set() {
  const InstructionSet* set = chosen.load();
  return set ? *set : *available().sets[0];
}

bool use_instruction_set(const char* name) {
  for (const InstructionSet* const* set = available().sets; *set; ++set) {
    if (std::strcmp((*set)->name, name) == 0) {
      chosen.store(*set);
      return true;
    }
  }
  return false;
}

}  // namespace gns
