// torch.ops.alternet_native.layer_norm_*: from tensors to a LayerNormProblem, and results back.
#include <tuple>

#include "csrc/row_operator.h"
#include "layer_norm/problem.h"

namespace alternet {
ALTERNET_ROW_KERNELS(layer_norm_kernels, LayerNormProblem)
namespace {

LayerNormProblem problem(const Tensor& x, const Maybe& weight, const Maybe& bias, int64_t tangents) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected 3 axes");
  LayerNormProblem p;
  p.batch = x.size(0);
  p.rows = x.size(1);
  p.width = x.size(2);
  p.tangents = tangents == NO_TANGENTS ? 1 : tangents;
  p.cut(32, 16);
  const ScalarType type = x.scalar_type();
  p.x = row_tensor("x", x, type, p, NO_TANGENTS);
  p.weight = if_there(shared_row, "weight", weight, type, p, NO_TANGENTS);
  p.bias = if_there(shared_row, "bias", bias, type, p, NO_TANGENTS);
  return p;
}

void add_residuals(LayerNormProblem& p, ScalarType type, const Tensor& mean, const Tensor& rstd) {
  p.mean = row_scalars("mean", mean, type, p, NO_TANGENTS);
  p.rstd = row_scalars("rstd", rstd, type, p, NO_TANGENTS);
}

void add_tangents(LayerNormProblem& p, ScalarType type, const Maybe& x, const Maybe& weight, const Maybe& bias) {
  p.t_x = if_there(row_tensor, "t_x", x, type, p, p.tangents);
  p.t_weight = if_there(shared_row, "t_weight", weight, type, p, p.tangents);
  p.t_bias = if_there(shared_row, "t_bias", bias, type, p, p.tangents);
}

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

/// forward (NO_TANGENTS) or tangent: y, mean and rstd, or theirs.
Outputs run_outputs(LayerNormProblem& p, RowMap<LayerNormProblem> RowMaps<LayerNormProblem>::* map, const Tensor& x,
                    int64_t tangents) {
  const ScalarType type = x.scalar_type();
  const Tensor y = result_like(x, tangents, {p.batch, p.rows, p.width}, type);
  const Tensor mean = result_like(x, tangents, {p.batch, p.rows}, arithmetic(type));
  const Tensor rstd = result_like(x, tangents, {p.batch, p.rows}, arithmetic(type));
  p.r_y = row_tensor("y", y, type, p, tangents);
  p.r_mean = row_scalars("mean", mean, type, p, tangents);
  p.r_rstd = row_scalars("rstd", rstd, type, p, tangents);
  run_tasks(p, layer_norm_kernels(type).*map, p.tasks());
  return {y, mean, rstd};
}

Outputs forward(Tensor x, Maybe weight, Maybe bias, double eps) {
  LayerNormProblem p = problem(x, weight, bias, NO_TANGENTS);
  p.eps = eps;
  return run_outputs(p, &RowMaps<LayerNormProblem>::forward, x, NO_TANGENTS);
}

Outputs tangent(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor rstd, Maybe t_x, Maybe t_weight,
                Maybe t_bias) {
  LayerNormProblem p = problem(x, weight, bias, count_tangents({&t_x, &t_weight, &t_bias}));
  add_residuals(p, x.scalar_type(), mean, rstd);
  add_tangents(p, x.scalar_type(), t_x, t_weight, t_bias);
  return run_outputs(p, &RowMaps<LayerNormProblem>::tangent, x, p.tangents);
}

using Gradients = std::tuple<Maybe, Maybe, Maybe>;

/// backward (NO_TANGENTS) or backward_tangent.
Gradients run_gradients(LayerNormProblem& p, RowMap<LayerNormProblem> RowMaps<LayerNormProblem>::* map,
                        const Tensor& x, const Maybe& weight, const Maybe& bias, int64_t tangents,
                        const std::vector<bool>& needs) {
  STD_TORCH_CHECK(needs.size() == 3 && (weight || !needs[1]) && (bias || !needs[2]),
                  "needs: expected one flag for each input");
  Maybe d_x, d_weight, d_bias;
  if (needs[0]) d_x = result_like(x, tangents, {p.batch, p.rows, p.width}, x.scalar_type());
  p.d_x = if_there(row_tensor, "d_x", d_x, x.scalar_type(), p, tangents);
  ColumnTotals weight_totals(p, needs[1]), bias_totals(p, needs[2]);
  p.d_weight = weight_totals.data();
  p.d_bias = bias_totals.data();
  run_tasks(p, layer_norm_kernels(x.scalar_type()).*map, p.tasks());
  if (needs[1]) d_weight = weight_totals.finish(*weight, tangents);
  if (needs[2]) d_bias = bias_totals.finish(*bias, tangents);
  return {d_x, d_weight, d_bias};
}

Gradients backward(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor rstd, Tensor grad,
                   std::vector<bool> needs) {
  LayerNormProblem p = problem(x, weight, bias, NO_TANGENTS);
  add_residuals(p, x.scalar_type(), mean, rstd);
  p.grad = row_tensor("grad", grad, x.scalar_type(), p, NO_TANGENTS);
  return run_gradients(p, &RowMaps<LayerNormProblem>::backward, x, weight, bias, NO_TANGENTS, needs);
}

Gradients backward_tangent(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor rstd, Tensor grad, Maybe t_x,
                           Maybe t_weight, Maybe t_bias, Maybe t_mean, Maybe t_rstd, Maybe t_grad,
                           std::vector<bool> needs) {
  LayerNormProblem p = problem(x, weight, bias, count_tangents({&t_x, &t_weight, &t_bias, &t_grad}));
  const ScalarType type = x.scalar_type();
  add_residuals(p, type, mean, rstd);
  add_tangents(p, type, t_x, t_weight, t_bias);
  p.grad = row_tensor("grad", grad, type, p, NO_TANGENTS);
  p.t_mean = if_there(row_scalars, "t_mean", t_mean, type, p, p.tangents);
  p.t_rstd = if_there(row_scalars, "t_rstd", t_rstd, type, p, p.tangents);
  p.t_grad = if_there(row_tensor, "t_grad", t_grad, type, p, p.tangents);
  STD_TORCH_CHECK(!p.t_x || (p.t_mean && p.t_rstd), "t_mean, t_rstd: expected tensors, got none");
  return run_gradients(p, &RowMaps<LayerNormProblem>::backward_tangent, x, weight, bias, p.tangents, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def("layer_norm_forward(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_tangent(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, Tensor? t_x,"
      " Tensor? t_weight, Tensor? t_bias) -> (Tensor, Tensor, Tensor)");
  m.def(
      "layer_norm_backward(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, Tensor grad,"
      " bool[] needs) -> (Tensor?, Tensor?, Tensor?)");
  m.def(
      "layer_norm_backward_tangent(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, Tensor grad,"
      " Tensor? t_x, Tensor? t_weight, Tensor? t_bias, Tensor? t_mean, Tensor? t_rstd, Tensor? t_grad, bool[] needs)"
      " -> (Tensor?, Tensor?, Tensor?)");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("layer_norm_forward", TORCH_BOX(&alternet::forward));
  m.impl("layer_norm_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("layer_norm_backward", TORCH_BOX(&alternet::backward));
  m.impl("layer_norm_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
}
