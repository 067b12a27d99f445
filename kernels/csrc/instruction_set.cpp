#include "csrc/instruction_set.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>

namespace alternet {
namespace {

constexpr std::array<const char*, 3> NAMES{"generic", "avx2", "avx512"};

bool supported(InstructionSet set) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::avx2) return avx2;
  if (set == InstructionSet::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  return set == InstructionSet::generic;
}

InstructionSet best() {
  if (supported(InstructionSet::avx512)) return InstructionSet::avx512;
  return supported(InstructionSet::avx2) ? InstructionSet::avx2 : InstructionSet::generic;
}

std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> set{best()};
  return set;
}

}  // namespace

InstructionSet instruction_set() { return chosen().load(); }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (size_t i = 0; i < NAMES.size(); ++i)
    if (supported(static_cast<InstructionSet>(i))) names.emplace_back(NAMES[i]);
  return names;
}

std::string use_instruction_set(const std::string& name) {
  const auto names = instruction_sets();
  STD_TORCH_CHECK(std::find(names.begin(), names.end(), name) != names.end(), "instruction set '", name,
                  "' is unknown or not available on this processor");
  const auto index = std::find(NAMES.begin(), NAMES.end(), name) - NAMES.begin();
  return NAMES[static_cast<size_t>(chosen().exchange(static_cast<InstructionSet>(index)))];
}

}  // namespace alternet
