// torch.ops.alternet_native.activation_*: from tensors to an ActivationProblem, and results back.
#include <string>
#include <tuple>

#include "activation/problem.h"
#include "csrc/row_operator.h"

namespace alternet {
ALTERNET_ROW_KERNELS(activation_kernels, ActivationProblem)
namespace {

using Maps = RowMaps<ActivationProblem>;
using Map = RowMap<ActivationProblem>;

ActivationKind kind_of(const std::string& name) {
  if (name == "relu") return ActivationKind::relu;
  if (name == "gelu") return ActivationKind::gelu;
  STD_TORCH_CHECK(name == "gelu_tanh", "kind: expected relu, gelu or gelu_tanh, got ", name);
  return ActivationKind::gelu_tanh;
}

/// A call: with a bias its rows are those of x [B, N, D], without one they are pieces of x of whatever shape, the last a
/// shorter one.
class Call {
 public:
  Call(const Tensor& x, const Maybe& bias, const std::string& kind, int64_t tangents)
      : x_(x), type_(x.scalar_type()), tangents_(tangents) {
    STD_TORCH_CHECK(!bias || x.dim() == 3, "x: expected 3 axes");
    shape_.batch = bias ? x.size(0) : 1;
    shape_.rows = bias ? x.size(1) : 1;
    shape_.width = bias ? x.size(2) : x.numel();
    shape_.tangents = tangents == NO_TANGENTS ? 1 : tangents;
    static_cast<RowSizes&>(p) = shape_;
    p.kind = kind_of(kind);
    p.last_width = p.width;
    whole_ = !bias;
    if (whole_) cut_into_pieces(x.numel());
    p.cut(32, bias ? 16 : 4);
    p.x = tensor("x", x, NO_TANGENTS);
    p.bias = if_there(shared_row, "bias", bias, type_, shape_, NO_TANGENTS);
  }

  RowTensor tensor(const char* name, const Tensor& given, int64_t tangents) const {
    RowTensor result = whole_ ? flat_tensor(name, given, type_, shape_, tangents)
                              : row_tensor(name, given, type_, shape_, tangents);
    result.row = p.width;
    return result;
  }

  RowTensor tensor(const char* name, const Maybe& given, int64_t tangents) const {
    return given ? tensor(name, *given, tangents) : RowTensor{};
  }

  void add_tangents(const Maybe& x, const Maybe& bias) {
    p.t_x = tensor("t_x", x, tangents_);
    p.t_bias = if_there(shared_row, "t_bias", bias, type_, shape_, tangents_);
  }

  Tensor result(int64_t tangents) const {
    const auto sizes = x_.sizes();
    return result_like(x_, tangents, std::vector<int64_t>(sizes.begin(), sizes.end()), type_);
  }

  /// y beside its tangent.
  std::tuple<Tensor, Tensor> run_both_outputs() {
    const Tensor y = result(NO_TANGENTS);
    p.primal_y = tensor("y", y, NO_TANGENTS);
    return {y, run_output(&Maps::tangent)};
  }

  /// forward or tangent: y, or its tangent.
  Tensor run_output(Map Maps::* map) {
    const Tensor y = result(tangents_);
    p.r_y = tensor("y", y, tangents_);
    run(map);
    return y;
  }

  /// backward or backward_tangent.
  std::tuple<Maybe, Maybe> run_gradients(Map Maps::* map, const Maybe& bias, const std::vector<bool>& needs) {
    check_needs(bias, needs);
    Maybe d_x, d_bias;
    if (needs[0]) d_x = result(tangents_);
    p.d_x = tensor("d_x", d_x, tangents_);
    ColumnTotals totals(p, needs[1]);
    p.d_bias = totals.data();
    run(map);
    if (needs[1]) d_bias = totals.finish(*bias, tangents_);
    return {d_x, d_bias};
  }

  /// The gradients beside their tangents.
  std::tuple<Maybe, Maybe, Maybe, Maybe> run_both_gradients(const Maybe& bias, const std::vector<bool>& needs) {
    check_needs(bias, needs);
    Maybe d_x, d_bias;
    if (needs[0]) d_x = result(NO_TANGENTS);
    p.primal_d_x = tensor("d_x", d_x, NO_TANGENTS);
    const RowSizes one = p.of_one();
    ColumnTotals totals(one, needs[1]);
    p.primal_d_bias = totals.data();
    auto [t_d_x, t_d_bias] = run_gradients(&Maps::backward_tangent, bias, needs);
    if (needs[1]) d_bias = totals.finish(*bias, NO_TANGENTS);
    return {d_x, d_bias, t_d_x, t_d_bias};
  }

  ActivationProblem p;

 private:
  void cut_into_pieces(int64_t numbers) {
    constexpr int64_t PIECE = 1024;  // what a sweep leaves behind stays in the first-level cache
    p.batch = 1;
    p.width = PIECE;
    p.rows = (numbers + PIECE - 1) / PIECE;
    p.last_width = numbers - (p.rows - 1) * PIECE;
  }

  static void check_needs(const Maybe& bias, const std::vector<bool>& needs) {
    STD_TORCH_CHECK(needs.size() == 2 && (bias || !needs[1]), "needs: expected one flag for each input");
  }

  void run(Map Maps::* map) { run_tasks(p, activation_kernels(type_).*map, p.tasks()); }

  const Tensor& x_;
  ScalarType type_;
  int64_t tangents_;
  RowSizes shape_;
  bool whole_ = false;
};

Tensor forward(Tensor x, Maybe bias, std::string kind) {
  return Call(x, bias, kind, NO_TANGENTS).run_output(&Maps::forward);
}

Tensor tangent(Tensor x, Maybe bias, Maybe t_x, Maybe t_bias, std::string kind) {
  Call call(x, bias, kind, count_tangents({&t_x, &t_bias}));
  call.add_tangents(t_x, t_bias);
  return call.run_output(&Maps::tangent);
}

std::tuple<Tensor, Tensor> forward_and_tangent(Tensor x, Maybe bias, Maybe t_x, Maybe t_bias, std::string kind) {
  Call call(x, bias, kind, count_tangents({&t_x, &t_bias}));
  call.add_tangents(t_x, t_bias);
  return call.run_both_outputs();
}

std::tuple<Maybe, Maybe> backward(Tensor x, Maybe bias, Tensor grad, std::string kind, std::vector<bool> needs) {
  Call call(x, bias, kind, NO_TANGENTS);
  call.p.grad = call.tensor("grad", grad, NO_TANGENTS);
  return call.run_gradients(&Maps::backward, bias, needs);
}

/// The call of a tangent of `backward`.
Call second_order(const Tensor& x, const Maybe& bias, const Tensor& grad, const Maybe& t_x, const Maybe& t_bias,
                  const Maybe& t_grad, const std::string& kind) {
  const int64_t tangents = count_tangents({&t_x, &t_bias, &t_grad});
  Call call(x, bias, kind, tangents);
  call.add_tangents(t_x, t_bias);
  call.p.grad = call.tensor("grad", grad, NO_TANGENTS);
  call.p.t_grad = call.tensor("t_grad", t_grad, tangents);
  return call;
}

std::tuple<Maybe, Maybe> backward_tangent(Tensor x, Maybe bias, Tensor grad, Maybe t_x, Maybe t_bias, Maybe t_grad,
                                          std::string kind, std::vector<bool> needs) {
  return second_order(x, bias, grad, t_x, t_bias, t_grad, kind).run_gradients(&Maps::backward_tangent, bias, needs);
}

std::tuple<Maybe, Maybe, Maybe, Maybe> backward_and_tangent(Tensor x, Maybe bias, Tensor grad, Maybe t_x, Maybe t_bias,
                                                            Maybe t_grad, std::string kind, std::vector<bool> needs) {
  return second_order(x, bias, grad, t_x, t_bias, t_grad, kind).run_both_gradients(bias, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def("activation_forward(Tensor x, Tensor? bias, str kind) -> Tensor");
  m.def("activation_tangent(Tensor x, Tensor? bias, Tensor? t_x, Tensor? t_bias, str kind) -> Tensor");
  m.def("activation_backward(Tensor x, Tensor? bias, Tensor grad, str kind, bool[] needs) -> (Tensor?, Tensor?)");
  m.def(
      "activation_backward_tangent(Tensor x, Tensor? bias, Tensor grad, Tensor? t_x, Tensor? t_bias, Tensor? t_grad,"
      " str kind, bool[] needs) -> (Tensor?, Tensor?)");
  m.def(
      "activation_forward_and_tangent(Tensor x, Tensor? bias, Tensor? t_x, Tensor? t_bias, str kind)"
      " -> (Tensor, Tensor)");
  m.def(
      "activation_backward_and_tangent(Tensor x, Tensor? bias, Tensor grad, Tensor? t_x, Tensor? t_bias,"
      " Tensor? t_grad, str kind, bool[] needs) -> (Tensor?, Tensor?, Tensor?, Tensor?)");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("activation_forward", TORCH_BOX(&alternet::forward));
  m.impl("activation_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("activation_backward", TORCH_BOX(&alternet::backward));
  m.impl("activation_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
  m.impl("activation_forward_and_tangent", TORCH_BOX(&alternet::forward_and_tangent));
  m.impl("activation_backward_and_tangent", TORCH_BOX(&alternet::backward_and_tangent));
}
