// One call of a map of layer normalisation, as the kernels of every instruction set see it.
#pragma once

#include "csrc/rows.h"

namespace alternet {

/// The arguments of all four maps; what a map does not take or is not asked for has no data.
struct LayerNormProblem : RowSizes {
  double eps = 0;

  RowTensor x, weight, bias, mean, rstd, grad;
  RowTensor t_x, t_weight, t_bias, t_mean, t_rstd, t_grad;

  // Results: those of `forward` and `backward`, or their tangents; sums over rows, [task, tangent, column].
  RowTensor r_y, r_mean, r_rstd, d_x;
  double* d_weight = nullptr;
  double* d_bias = nullptr;
};

}  // namespace alternet
