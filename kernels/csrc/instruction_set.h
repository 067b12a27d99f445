// Which build of the kernels runs: the best that the processor has, or the one asked for.
#pragma once

#include <string>
#include <vector>

namespace alternet {

/// Each has what those before it have. `avx512_bf16` multiplies pairs of bfloat16, `amx` whole tiles of them.
enum class InstructionSet { generic, avx2, avx512, avx512_bf16, amx };

/// The one that the kernels run now.
InstructionSet instruction_set();

/// Whether that multiplies in tiles.
inline bool has_tiles() { return instruction_set() == InstructionSet::amx; }

/// Those that this processor can run.
std::vector<std::string> instruction_sets();

/// Chooses one of them by name for the whole process and returns the name of the one before; throws on any other name.
std::string use_instruction_set(const std::string& name);

}  // namespace alternet
