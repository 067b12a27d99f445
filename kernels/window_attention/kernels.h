// The table of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "window_attention/gradients_tangent.h"

namespace alternet::ALTERNET_ISA {

template <template <typename> class Kernel, typename Real>
struct WindowEntry {
  static size_t scratch(const WindowProblem& problem) {
    Carver counter(nullptr);
    Kernel<Real> unused(problem, counter);
    return counter.used();
  }
  static void run(const WindowProblem& problem, int64_t task, char* memory) {
    Carver scratch(memory);
    Kernel<Real>(problem, scratch).run(WindowTask(problem, task));
  }
  static constexpr RowMap<WindowProblem> map{&scratch, &run};
};

template <typename Real>
constexpr RowMaps<WindowProblem> window_attention_maps() {
  return {WindowEntry<WindowForward, Real>::map, WindowEntry<WindowTangent, Real>::map,
          WindowEntry<WindowBackward, Real>::map, WindowEntry<WindowBackwardTangent, Real>::map};
}

const RowKernels<WindowProblem>& window_attention_kernels() {
  static constexpr RowKernels<WindowProblem> kernels{window_attention_maps<float>(), window_attention_maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
