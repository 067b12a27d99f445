// The table of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "cross_entropy/gradients.h"
#include "cross_entropy/outputs.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
constexpr RowMaps<CrossEntropyProblem> cross_entropy_maps() {
  return {RowEntry<CrossEntropyForward<Real>, CrossEntropyProblem>::map,
          RowEntry<CrossEntropyTangent<Real>, CrossEntropyProblem>::map,
          RowEntry<CrossEntropyBackward<Real>, CrossEntropyProblem>::map,
          RowEntry<CrossEntropyBackwardTangent<Real>, CrossEntropyProblem>::map};
}

const RowKernels<CrossEntropyProblem>& cross_entropy_kernels() {
  static constexpr RowKernels<CrossEntropyProblem> kernels{cross_entropy_maps<float>(), cross_entropy_maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
