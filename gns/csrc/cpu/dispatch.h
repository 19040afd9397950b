// Chooses the build of the kernels that this machine runs best, at run time.
#pragma once

#include "frame.h"

namespace gns {

// Instruction sets that this module was built for and this machine has, best first; ends with null.
const InstructionSet* const* available_instruction_sets();
const InstructionSet& instruction_set();
// Returns false where `name` is not available.
bool use_instruction_set(const char* name);

}  // namespace gns
