// The table of one instruction set's maps. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "layer_norm/gradients.h"
#include "layer_norm/outputs.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
constexpr RowMaps<LayerNormProblem> layer_norm_maps() {
  return {RowEntry<LayerNormForward<Real>, LayerNormProblem>::map,
          RowEntry<LayerNormTangent<Real>, LayerNormProblem>::map,
          RowEntry<LayerNormBackward<Real>, LayerNormProblem>::map,
          RowEntry<LayerNormBackwardTangent<Real>, LayerNormProblem>::map};
}

const RowKernels<LayerNormProblem>& layer_norm_kernels() {
  static constexpr RowKernels<LayerNormProblem> kernels{layer_norm_maps<float>(), layer_norm_maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
