// One call of a map of batch normalisation, as the kernels of every instruction set see it.
#pragma once

#include "csrc/rows.h"

namespace alternet {

/// The arguments of all four maps; what a map does not take or is not asked for has no data. Tensors are [G, B, C, S]:
/// rows of S numbers, row b C + c of a group; statistics and weights are [G | 1, C]. A task is one channel of a group.
struct BatchNormProblem : RowSizes {
  int64_t samples = 0, channels = 0;  // B, C
  double eps = 0;
  bool training = true;  // statistics are those of x; otherwise constants, in mean and var
  bool relu = false;

  RowTensor x, weight, bias, mean, var, grad;
  RowTensor t_x, t_weight, t_bias, t_mean, t_var, t_grad;

  // Results: those of `forward` and `backward`, or their tangents.
  RowTensor r_y, r_mean, r_var, d_x, d_weight, d_bias;

  double count() const { return static_cast<double>(samples * width); }
};

}  // namespace alternet
