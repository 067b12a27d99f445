// From tensors to rows and back, and tasks over torch's threads: the host side of the row-wise operators. Shapes and
// dtypes are checked where users call; what is checked here guards the memory.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "csrc/instruction_set.h"
#include "csrc/rows.h"
#include "csrc/tasks.h"

namespace alternet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

constexpr int64_t NO_TANGENTS = -1;  // as a number of tangents: the tensor lacks the axis

Element element_of(ScalarType type);

/// The dtype that sums are taken in.
ScalarType arithmetic(ScalarType type);

/// The number of tangents of the first that is there.
int64_t count_tangents(std::initializer_list<const Maybe*> tangents);

/// A contiguous tensor [T,] B, N, D.
RowTensor row_tensor(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents);
/// A contiguous tensor of so many numbers, whatever its axes (with tangents T is the first), as one row.
RowTensor flat_tensor(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents);
/// [T,] B | 1, 1, D: one row for the whole, or for each of the batch.
RowTensor shared_row(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents);
/// [T,] B, N: a number a row, in the arithmetic dtype.
RowTensor row_scalars(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents);

template <typename Make>
RowTensor if_there(Make make, const char* name, const Maybe& tensor, ScalarType type, const RowSizes& p,
                   int64_t tangents) {
  return tensor ? make(name, *tensor, type, p, tangents) : RowTensor{};
}

/// Uninitialised [T,] shape, for a result that is written as a whole.
Tensor result_like(const Tensor& like, int64_t tangents, std::vector<int64_t> shape, ScalarType type);

/// Sums over rows in double, [task, T, D], and their sum over tasks in the order of the tasks.
class ColumnTotals {
 public:
  ColumnTotals(const RowSizes& p, bool wanted) : p_(p), totals_(wanted ? p.tasks() * p.tangents * p.width : 0) {}

  double* data() { return totals_.empty() ? nullptr : totals_.data(); }

  /// The sums as [T,] B | 1, 1, D in the dtype of `like`.
  Tensor finish(const Tensor& like, int64_t tangents) const;

 private:
  const RowSizes& p_;
  std::vector<double> totals_;
};

/// Runs the tasks of a map.
template <typename Problem>
void run_tasks(const Problem& p, const RowMap<Problem>& map, int64_t tasks, int64_t neighbours = 1) {
  const auto work = [&](int64_t task, char* memory) { map.run(p, task, memory); };
  run_tasks(tasks, map.scratch(p), work, neighbours);
}

}  // namespace alternet

/// Declares NAME() of every instruction set, and NAME(type): the maps of the one in use for an arithmetic type.
#if defined(__x86_64__)
#define ALTERNET_ROW_KERNELS(NAME, PROBLEM)                                     \
  namespace generic {                                                           \
  const RowKernels<PROBLEM>& NAME();                                            \
  }                                                                             \
  namespace avx2 {                                                              \
  const RowKernels<PROBLEM>& NAME();                                            \
  }                                                                             \
  namespace avx512 {                                                            \
  const RowKernels<PROBLEM>& NAME();                                            \
  }                                                                             \
  static const RowMaps<PROBLEM>& NAME(ScalarType type) {                        \
    const InstructionSet set = instruction_set();                               \
    const auto& kernels = set >= InstructionSet::avx512 ? avx512::NAME()        \
                          : set == InstructionSet::avx2 ? avx2::NAME()          \
                                                        : generic::NAME();      \
    return type == ScalarType::Double ? kernels.float64 : kernels.float32;      \
  }
#else
#define ALTERNET_ROW_KERNELS(NAME, PROBLEM)                                             \
  namespace generic {                                                                   \
  const RowKernels<PROBLEM>& NAME();                                                    \
  }                                                                                     \
  static const RowMaps<PROBLEM>& NAME(ScalarType type) {                                \
    return type == ScalarType::Double ? generic::NAME().float64 : generic::NAME().float32; \
  }
#endif
