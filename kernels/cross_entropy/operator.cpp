// torch.ops.alternet_native.cross_entropy_*: from tensors to a CrossEntropyProblem, and results back.
#include <tuple>

#include "cross_entropy/problem.h"
#include "csrc/row_operator.h"

namespace alternet {
ALTERNET_ROW_KERNELS(cross_entropy_kernels, CrossEntropyProblem)
namespace {

using Maps = RowMaps<CrossEntropyProblem>;
using Map = RowMap<CrossEntropyProblem>;

/// Every index is a class or `ignore_index`: the kernels read memory at it.
const int64_t* checked_index(const Tensor& index, const CrossEntropyProblem& p) {
  STD_TORCH_CHECK(index.is_cpu() && index.is_contiguous() && index.scalar_type() == ScalarType::Long && index.dim() == 2,
                  "target: expected a contiguous CPU tensor of int64");
  STD_TORCH_CHECK(index.size(0) == p.batch && index.size(1) == p.rows, "target: expected one class a row");
  const auto* values = static_cast<const int64_t*>(index.data_ptr());
  for (int64_t i = 0; i < p.batch * p.rows; ++i)
    STD_TORCH_CHECK((0 <= values[i] && values[i] < p.width) || values[i] == p.ignore_index, "target: class ", values[i],
                    " in row ", i, ", expected 0 to ", p.width - 1, " or ignore_index");
  return values;
}

CrossEntropyProblem problem(const Tensor& logits, const Maybe& target, const Maybe& index, double smoothing,
                            int64_t ignore_index, int64_t tangents) {
  STD_TORCH_CHECK(logits.dim() == 3, "logits: expected 3 axes");
  STD_TORCH_CHECK(target.has_value() != index.has_value(), "target: expected probabilities or classes");
  CrossEntropyProblem p;
  p.batch = logits.size(0);
  p.rows = logits.size(1);
  p.width = logits.size(2);
  p.tangents = tangents == NO_TANGENTS ? 1 : tangents;
  p.cut(64, 4);
  p.kept = 1 - smoothing;
  p.spread = smoothing / static_cast<double>(std::max<int64_t>(p.width, 1));
  p.ignore_index = ignore_index;
  p.logits = row_tensor("logits", logits, logits.scalar_type(), p, NO_TANGENTS);
  p.target = if_there(row_tensor, "target", target, logits.scalar_type(), p, NO_TANGENTS);
  if (index) p.index = checked_index(*index, p);
  return p;
}

void add_tangents(CrossEntropyProblem& p, ScalarType type, const Maybe& logits, const Maybe& target) {
  STD_TORCH_CHECK(!target || p.target, "t_target: there is no target");
  p.t_logits = if_there(row_tensor, "t_logits", logits, type, p, p.tangents);
  p.t_target = if_there(row_tensor, "t_target", target, type, p, p.tangents);
}

/// forward (NO_TANGENTS) or tangent: loss and lse, or theirs.
std::tuple<Tensor, Tensor> run_outputs(CrossEntropyProblem& p, Map Maps::* map, const Tensor& logits,
                                       int64_t tangents) {
  const ScalarType type = logits.scalar_type();
  const Tensor loss = result_like(logits, tangents, {p.batch, p.rows}, arithmetic(type));
  const Tensor lse = result_like(logits, tangents, {p.batch, p.rows}, arithmetic(type));
  p.r_loss = row_scalars("loss", loss, type, p, tangents);
  p.r_lse = row_scalars("lse", lse, type, p, tangents);
  run_tasks(p, cross_entropy_kernels(type).*map, p.tasks());
  return {loss, lse};
}

std::tuple<Tensor, Tensor> forward(Tensor logits, Maybe target, Maybe index, double smoothing, int64_t ignore_index) {
  CrossEntropyProblem p = problem(logits, target, index, smoothing, ignore_index, NO_TANGENTS);
  return run_outputs(p, &Maps::forward, logits, NO_TANGENTS);
}

std::tuple<Tensor, Tensor> tangent(Tensor logits, Maybe target, Maybe index, Tensor lse, Maybe t_logits,
                                   Maybe t_target, double smoothing, int64_t ignore_index) {
  const int64_t tangents = count_tangents({&t_logits, &t_target});
  CrossEntropyProblem p = problem(logits, target, index, smoothing, ignore_index, tangents);
  p.lse = row_scalars("lse", lse, logits.scalar_type(), p, NO_TANGENTS);
  add_tangents(p, logits.scalar_type(), t_logits, t_target);
  return run_outputs(p, &Maps::tangent, logits, tangents);
}

using Gradients = std::tuple<Maybe, Maybe>;

/// backward (NO_TANGENTS) or backward_tangent.
Gradients run_gradients(CrossEntropyProblem& p, Map Maps::* map, const Tensor& logits, int64_t tangents,
                        const std::vector<bool>& needs) {
  STD_TORCH_CHECK(needs.size() == 3 && (p.target || !needs[1]) && !needs[2],
                  "needs: expected one flag for each input");
  const ScalarType type = logits.scalar_type();
  Maybe d_logits, d_target;
  if (needs[0]) d_logits = result_like(logits, tangents, {p.batch, p.rows, p.width}, type);
  if (needs[1]) d_target = result_like(logits, tangents, {p.batch, p.rows, p.width}, type);
  p.d_logits = if_there(row_tensor, "d_logits", d_logits, type, p, tangents);
  p.d_target = if_there(row_tensor, "d_target", d_target, type, p, tangents);
  run_tasks(p, cross_entropy_kernels(type).*map, p.tasks());
  return {d_logits, d_target};
}

Gradients backward(Tensor logits, Maybe target, Maybe index, Tensor lse, Tensor grad, double smoothing,
                   int64_t ignore_index, std::vector<bool> needs) {
  CrossEntropyProblem p = problem(logits, target, index, smoothing, ignore_index, NO_TANGENTS);
  p.lse = row_scalars("lse", lse, logits.scalar_type(), p, NO_TANGENTS);
  p.grad = row_scalars("grad", grad, logits.scalar_type(), p, NO_TANGENTS);
  return run_gradients(p, &Maps::backward, logits, NO_TANGENTS, needs);
}

Gradients backward_tangent(Tensor logits, Maybe target, Maybe index, Tensor lse, Tensor grad, Maybe t_logits,
                           Maybe t_target, Maybe t_lse, Maybe t_grad, double smoothing, int64_t ignore_index,
                           std::vector<bool> needs) {
  const int64_t tangents = count_tangents({&t_logits, &t_target, &t_grad});
  CrossEntropyProblem p = problem(logits, target, index, smoothing, ignore_index, tangents);
  const ScalarType type = logits.scalar_type();
  p.lse = row_scalars("lse", lse, type, p, NO_TANGENTS);
  p.grad = row_scalars("grad", grad, type, p, NO_TANGENTS);
  add_tangents(p, type, t_logits, t_target);
  p.t_lse = if_there(row_scalars, "t_lse", t_lse, type, p, tangents);
  p.t_grad = if_there(row_scalars, "t_grad", t_grad, type, p, tangents);
  STD_TORCH_CHECK(!p.t_logits || p.t_lse, "t_lse: expected a tensor, got none");
  return run_gradients(p, &Maps::backward_tangent, logits, tangents, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def(
      "cross_entropy_forward(Tensor logits, Tensor? target, Tensor? index, float label_smoothing, int ignore_index)"
      " -> (Tensor, Tensor)");
  m.def(
      "cross_entropy_tangent(Tensor logits, Tensor? target, Tensor? index, Tensor lse, Tensor? t_logits,"
      " Tensor? t_target, float label_smoothing, int ignore_index) -> (Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor logits, Tensor? target, Tensor? index, Tensor lse, Tensor grad,"
      " float label_smoothing, int ignore_index, bool[] needs) -> (Tensor?, Tensor?)");
  m.def(
      "cross_entropy_backward_tangent(Tensor logits, Tensor? target, Tensor? index, Tensor lse, Tensor grad,"
      " Tensor? t_logits, Tensor? t_target, Tensor? t_lse, Tensor? t_grad, float label_smoothing, int ignore_index,"
      " bool[] needs) -> (Tensor?, Tensor?)");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("cross_entropy_forward", TORCH_BOX(&alternet::forward));
  m.impl("cross_entropy_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("cross_entropy_backward", TORCH_BOX(&alternet::backward));
  m.impl("cross_entropy_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
}
