// One call of a map of cross-entropy, as the kernels of every instruction set see it.
#pragma once

#include "csrc/rows.h"

namespace alternet {

/// The arguments of all four maps; what a map does not take or is not asked for has no data. Rows of logits z have
/// weights of classes q = kept target + spread; where there is an index instead, target is 1 at it and 0 elsewhere.
struct CrossEntropyProblem : RowSizes {
  double kept = 1, spread = 0;
  const int64_t* index = nullptr;  // [B, N], or null
  int64_t ignore_index = 0;

  RowTensor logits, target, lse, grad;
  RowTensor t_logits, t_target, t_lse, t_grad;

  // Results: those of `forward` and `backward`, or their tangents.
  RowTensor r_loss, r_lse, d_logits, d_target;

  /// Row i of b has loss 0, whatever its logits.
  bool ignored(int64_t b, int64_t i) const { return index && index[b * rows + i] == ignore_index; }
};

}  // namespace alternet
