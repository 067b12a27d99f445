// Which build of the kernels runs: the best that the processor has, or the one asked for.
#pragma once

#include <string>
#include <vector>

namespace alternet {

enum class InstructionSet { generic, avx2, avx512 };

/// The one that the kernels run now.
InstructionSet instruction_set();

/// Those that this processor can run, the best last.
std::vector<std::string> instruction_sets();

/// Chooses one of them by name for the whole process and returns the name of the one before; throws on any other name.
std::string use_instruction_set(const std::string& name);

}  // namespace alternet
