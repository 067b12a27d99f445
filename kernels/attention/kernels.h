// The table of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/backward.h"
#include "attention/backward_tangent.h"
#include "attention/forward.h"
#include "attention/tangent.h"

namespace alternet::ALTERNET_ISA {

template <template <typename> class Kernel, typename Real>
struct Entry {
  static size_t scratch(const Problem& problem) {
    Carver counter(nullptr);
    Kernel<Real> unused(problem, counter);
    return counter.used();
  }
  static void run(const Problem& problem, int64_t task, char* memory) {
    Carver scratch(memory);
    Kernel<Real>(problem, scratch).run(Task(problem, task));
  }
  static constexpr Map map{&scratch, &run};
};

template <typename Real>
constexpr Maps maps() {
  return {Entry<Forward, Real>::map, Entry<Tangent, Real>::map, Entry<Backward, Real>::map,
          Entry<BackwardTangent, Real>::map};
}

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kernels{maps<float>(), maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
