#include "csrc/instruction_set.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace alternet {
namespace {

constexpr std::array<const char*, 5> NAMES{"generic", "avx2", "avx512", "avx512_bf16", "amx"};

#if defined(__x86_64__)
/// Bit `bit` of a register that CPUID gives for leaf 7: EAX of subleaf 1 or EDX of subleaf 0.
bool leaf_7(unsigned subleaf, unsigned bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, subleaf, &eax, &ebx, &ecx, &edx)) return false;
  return (subleaf == 1 ? eax : edx) >> bit & 1u;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

/// Intel's processors take a product of pairs in the time of two fused multiply-adds: attention's maps take 1.5 times
/// as long by it as in float (Sapphire Rapids). AMD's take it in that of one.
bool pairs_are_fast() { return __builtin_cpu_is("amd"); }

bool has_avx512_bf16() { return has_avx512() && leaf_7(1, 5); }

/// The processor has tiles, and Linux lets this process use them: their 8 KB a thread are given on request only.
bool has_amx() {
#if defined(__linux__)
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_avx512_bf16() && leaf_7(0, 22) && leaf_7(0, 24) &&
         syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}
#endif

bool supported(InstructionSet set) {
#if defined(__x86_64__)
  static const std::array<bool, 5> has{true, has_avx2(), has_avx512(), has_avx512_bf16(), has_amx()};
  return has[static_cast<size_t>(set)];
#else
  return set == InstructionSet::generic;
#endif
}

InstructionSet best() {
#if defined(__x86_64__)
  if (supported(InstructionSet::amx)) return InstructionSet::amx;
  if (supported(InstructionSet::avx512_bf16) && pairs_are_fast()) return InstructionSet::avx512_bf16;
  if (supported(InstructionSet::avx512)) return InstructionSet::avx512;
  if (supported(InstructionSet::avx2)) return InstructionSet::avx2;
#endif
  return InstructionSet::generic;
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
