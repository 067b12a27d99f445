// torch.ops.alternet_native.batch_norm_*: from tensors to a BatchNormProblem, and results back. Weights and statistics
// are [G | 1, C] in the arithmetic dtype.
#include <string>
#include <tuple>

#include "batch_norm/problem.h"
#include "csrc/row_operator.h"

namespace alternet {
ALTERNET_ROW_KERNELS(batch_norm_kernels, BatchNormProblem)
namespace {

using Maps = RowMaps<BatchNormProblem>;
using Map = RowMap<BatchNormProblem>;

/// A call: x [G, B, C, S], seen as rows of S.
class Call {
 public:
  Call(const Tensor& x, const Maybe& weight, const Maybe& bias, bool training, double eps,
       const std::string& activation, int64_t tangents)
      : x_(x), type_(x.scalar_type()), tangents_(tangents) {
    STD_TORCH_CHECK(x.dim() == 4, "x: expected 4 axes");
    STD_TORCH_CHECK(activation == "none" || activation == "relu", "activation: expected none or relu");
    p.batch = x.size(0);
    p.samples = x.size(1);
    p.channels = x.size(2);
    p.rows = p.samples * p.channels;
    p.width = x.size(3);
    p.tangents = tangents == NO_TANGENTS ? 1 : tangents;
    p.training = training;
    p.eps = eps;
    p.relu = activation == "relu";
    p.x = rows("x", x, NO_TANGENTS);
    p.weight = scalars("weight", weight, NO_TANGENTS);
    p.bias = scalars("bias", bias, NO_TANGENTS);
  }

  RowTensor rows(const char* name, const Maybe& tensor, int64_t tangents) const {
    if (!tensor) return {};
    const int64_t lead = tangents == NO_TANGENTS ? 0 : 1;
    STD_TORCH_CHECK(tensor->dim() == lead + 4 && tensor->size(lead + 1) == p.samples, name, ": expected x's shape");
    std::vector<int64_t> shape{p.batch, p.rows, p.width};
    if (lead) shape.insert(shape.begin(), tangents);
    return row_tensor(name, torch::stable::view(*tensor, shape), type_, p, tangents);
  }

  RowTensor scalars(const char* name, const Maybe& tensor, int64_t tangents) const {
    if (!tensor) return {};
    STD_TORCH_CHECK(tensor->dim() >= 2, name, ": expected at least 2 axes");
    RowSizes sizes;
    sizes.batch = tensor->size(tensor->dim() - 2) == 1 ? 1 : p.batch;
    sizes.rows = p.channels;
    RowTensor result = row_scalars(name, *tensor, type_, sizes, tangents);
    if (sizes.batch == 1) result.batch = 0;
    return result;
  }

  void add_statistics(const Maybe& mean, const Maybe& var) {
    p.mean = scalars("mean", mean, NO_TANGENTS);
    p.var = scalars("var", var, NO_TANGENTS);
    STD_TORCH_CHECK(p.mean && p.var, "mean, var: expected tensors, got none");
  }

  void add_tangents(const Maybe& x, const Maybe& weight, const Maybe& bias) {
    p.t_x = rows("t_x", x, tangents_);
    p.t_weight = scalars("t_weight", weight, tangents_);
    p.t_bias = scalars("t_bias", bias, tangents_);
  }

  Tensor like_x() const { return result_like(x_, tangents_, {p.batch, p.samples, p.channels, p.width}, type_); }
  Tensor a_channel() const { return result_like(x_, tangents_, {p.batch, p.channels}, arithmetic(type_)); }

  /// forward or tangent: y, mean and var, or their tangents.
  std::tuple<Tensor, Tensor, Tensor> run_outputs(Map Maps::* map) {
    const Tensor y = like_x(), mean = a_channel(), var = a_channel();
    p.r_y = rows("y", y, tangents_);
    p.r_mean = scalars("mean", mean, tangents_);
    p.r_var = scalars("var", var, tangents_);
    run(map);
    return {y, mean, var};
  }

  /// backward or backward_tangent: gradients of x, weight and bias, the latter [G, C] for each of the groups.
  std::tuple<Maybe, Maybe, Maybe> run_gradients(Map Maps::* map, const std::vector<bool>& needs) {
    STD_TORCH_CHECK(needs.size() == 3, "needs: expected one flag for each input");
    Maybe d_x, d_weight, d_bias;
    if (needs[0]) d_x = like_x();
    if (needs[1]) d_weight = a_channel();
    if (needs[2]) d_bias = a_channel();
    p.d_x = rows("d_x", d_x, tangents_);
    p.d_weight = scalars("d_weight", d_weight, tangents_);
    p.d_bias = scalars("d_bias", d_bias, tangents_);
    run(map);
    return {d_x, d_weight, d_bias};
  }

  BatchNormProblem p;

 private:
  void run(Map Maps::* map) { run_tasks(p, batch_norm_kernels(type_).*map, p.batch * p.channels); }

  const Tensor& x_;
  ScalarType type_;
  int64_t tangents_;
};

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, Maybe weight, Maybe bias, Maybe mean, Maybe var, double eps,
                                           std::string activation) {
  Call call(x, weight, bias, !mean, eps, activation, NO_TANGENTS);
  if (mean) call.add_statistics(mean, var);
  return call.run_outputs(&Maps::forward);
}

std::tuple<Tensor, Tensor, Tensor> tangent(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor var, Maybe t_x,
                                           Maybe t_weight, Maybe t_bias, bool training, double eps,
                                           std::string activation) {
  Call call(x, weight, bias, training, eps, activation, count_tangents({&t_x, &t_weight, &t_bias}));
  call.add_statistics(mean, var);
  call.add_tangents(t_x, t_weight, t_bias);
  return call.run_outputs(&Maps::tangent);
}

std::tuple<Maybe, Maybe, Maybe> backward(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor var, Tensor grad,
                                         bool training, double eps, std::string activation, std::vector<bool> needs) {
  Call call(x, weight, bias, training, eps, activation, NO_TANGENTS);
  call.add_statistics(mean, var);
  call.p.grad = call.rows("grad", grad, NO_TANGENTS);
  return call.run_gradients(&Maps::backward, needs);
}

std::tuple<Maybe, Maybe, Maybe> backward_tangent(Tensor x, Maybe weight, Maybe bias, Tensor mean, Tensor var,
                                                 Tensor grad, Maybe t_x, Maybe t_weight, Maybe t_bias, Maybe t_mean,
                                                 Maybe t_var, Maybe t_grad, bool training, double eps,
                                                 std::string activation, std::vector<bool> needs) {
  const int64_t tangents = count_tangents({&t_x, &t_weight, &t_bias, &t_grad});
  Call call(x, weight, bias, training, eps, activation, tangents);
  call.add_statistics(mean, var);
  call.add_tangents(t_x, t_weight, t_bias);
  call.p.grad = call.rows("grad", grad, NO_TANGENTS);
  call.p.t_grad = call.rows("t_grad", t_grad, tangents);
  call.p.t_mean = call.scalars("t_mean", t_mean, tangents);
  call.p.t_var = call.scalars("t_var", t_var, tangents);
  STD_TORCH_CHECK(!training || !t_x || (t_mean && t_var), "t_mean, t_var: expected tensors, got none");
  return call.run_gradients(&Maps::backward_tangent, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def(
      "batch_norm_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps,"
      " str activation) -> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_tangent(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, Tensor? t_x,"
      " Tensor? t_weight, Tensor? t_bias, bool training, float eps, str activation) -> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_backward(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, Tensor grad,"
      " bool training, float eps, str activation, bool[] needs) -> (Tensor?, Tensor?, Tensor?)");
  m.def(
      "batch_norm_backward_tangent(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, Tensor grad,"
      " Tensor? t_x, Tensor? t_weight, Tensor? t_bias, Tensor? t_mean, Tensor? t_var, Tensor? t_grad, bool training,"
      " float eps, str activation, bool[] needs) -> (Tensor?, Tensor?, Tensor?)");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("batch_norm_forward", TORCH_BOX(&alternet::forward));
  m.impl("batch_norm_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("batch_norm_backward", TORCH_BOX(&alternet::backward));
  m.impl("batch_norm_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
}
