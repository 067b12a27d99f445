// The table of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "batch_norm/gradients.h"
#include "batch_norm/outputs.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
constexpr RowMaps<BatchNormProblem> batch_norm_maps() {
  return {RowEntry<BatchNormForward<Real>, BatchNormProblem>::map,
          RowEntry<BatchNormTangent<Real>, BatchNormProblem>::map,
          RowEntry<BatchNormBackward<Real>, BatchNormProblem>::map,
          RowEntry<BatchNormBackwardTangent<Real>, BatchNormProblem>::map};
}

const RowKernels<BatchNormProblem>& batch_norm_kernels() {
  static constexpr RowKernels<BatchNormProblem> kernels{batch_norm_maps<float>(), batch_norm_maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
