// The tables of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/backward.h"
#include "attention/backward_tangent.h"
#include "attention/forward.h"
#include "attention/tangent.h"

namespace alternet::ALTERNET_ISA {

template <template <typename> class Kernel, typename Factor>
struct Entry {
  static size_t scratch(const Problem& problem) {
    Carver counter(nullptr);
    Kernel<Factor> unused(problem, counter);
    return counter.used();
  }
  static void run(const Problem& problem, int64_t task, char* memory) {
    Carver scratch(memory);
    [[maybe_unused]] const ProductUnit<Factor> unit;
    Kernel<Factor>(problem, scratch).run(Task(problem, task));
  }
  static constexpr Map map{&scratch, &run};
};

template <typename Factor>
constexpr Maps maps() {
  return {Entry<Forward, Factor>::map, Entry<Tangent, Factor>::map, Entry<Backward, Factor>::map,
          Entry<BackwardTangent, Factor>::map};
}

#if defined(ALTERNET_PAIRS)
const Maps& attention_pair_kernels() {
  static constexpr Maps kernels = maps<Pair>();
  return kernels;
}
#else
const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kernels{maps<float>(), maps<double>()};
  return kernels;
}
#endif

}  // namespace alternet::ALTERNET_ISA
