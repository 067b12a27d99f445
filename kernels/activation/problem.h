// One call of a map of an activation, as the kernels of every instruction set see it.
#pragma once

#include "csrc/rows.h"

namespace alternet {

enum class ActivationKind { relu, gelu, gelu_tanh };

/// The arguments of all four maps; what a map does not take or is not asked for has no data.
struct ActivationProblem : RowSizes {
  ActivationKind kind = ActivationKind::relu;
  int64_t last_width = 0;  // of the last row: without a bias rows are pieces of one long row

  RowTensor x, bias, grad, t_x, t_bias, t_grad;

  // Results: that of `forward` and `backward`, or their tangents; sums over rows, [task, tangent, column].
  RowTensor r_y, d_x;
  double* d_bias = nullptr;
  // Of `tangent` and `backward_tangent`: the results whose tangents the above are, where they are wanted too.
  RowTensor primal_y, primal_d_x;
  double* primal_d_bias = nullptr;

  int64_t width_of(int64_t row) const { return row + 1 == rows ? last_width : width; }
};

}  // namespace alternet
