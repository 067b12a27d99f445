// torch.ops.alternet_native.window_attention_*: from tensors to a WindowProblem, and results back.
#include <string>
#include <tuple>

#include "window_attention/operands.h"

namespace alternet {
ALTERNET_ROW_KERNELS(window_attention_kernels, WindowProblem)
namespace {

using namespace window_attention;
using Map = RowMap<WindowProblem> RowMaps<WindowProblem>::*;

/// The parameters of a call, as they come.
struct Parameters {
  const std::vector<int64_t>&window_size, &shift;
  double scale;
  bool channels_last;
};

/// A call in the making: its tensors are added one by one.
class Call {
 public:
  Call(const Tensor& query, const Tensor& key, const Tensor& value, const Maybe& table, const Parameters& given,
       int64_t tangents)
      : query_(query), channels_last_(given.channels_last), type_(query.scalar_type()), tangents_(tangents) {
    STD_TORCH_CHECK(query.dim() == 5 && value.dim() == 5, "query, value: expected 5 axes");
    STD_TORCH_CHECK(given.window_size.size() == 2 && given.shift.size() == 2, "window_size, shift: expected pairs");
    const bool last = channels_last_;
    p.batch = query.size(0);
    p.heads = query.size(last ? 3 : 1);
    p.width = query.size(last ? 4 : 2);
    p.value_width = value.size(last ? 4 : 2);
    p.height = query.size(last ? 1 : 3);
    p.breadth = query.size(last ? 2 : 4);
    cut(given);
    p.tangents = tangents == NO_TANGENTS ? 1 : tangents;
    p.scale = given.scale;
    p.query = primal("query", query, p.width);
    p.key = primal("key", key, p.width);
    p.value = primal("value", value, p.value_width);
    p.table = table_operand("table", table, p, type_, NO_TANGENTS);
  }

  FeatureMap primal(const char* name, const Tensor& tensor, int64_t channels) const {
    return feature_map(name, tensor, p, channels, channels_last_, type_, NO_TANGENTS);
  }

  FeatureMap primed(const char* name, const Maybe& tensor, int64_t channels) const {
    return tensor ? feature_map(name, *tensor, p, channels, channels_last_, type_, tangents_) : FeatureMap{};
  }

  void add_tangents(const Maybe& query, const Maybe& key, const Maybe& value, const Maybe& table) {
    p.t_query = primed("t_query", query, p.width);
    p.t_key = primed("t_key", key, p.width);
    p.t_value = primed("t_value", value, p.value_width);
    STD_TORCH_CHECK(!table || p.table, "t_table: expected a table with it");
    p.t_table = table_operand("t_table", table, p, type_, tangents_);
  }

  /// A result of so many tangents, uninitialised, and where the tasks write it.
  Tensor result(int64_t channels, int64_t tangents, FeatureMap& to) const {
    const Tensor tensor = result_like(query_, tangents, map_shape(p, channels, channels_last_), type_);
    to = feature_map("result", tensor, p, channels, channels_last_, type_, tangents);
    return tensor;
  }

  void run(Map map) {
    const auto& kernel = window_attention_kernels(type_).*map;
    // The longer a stretch of memory, the better it is read: that is worth more than planes in the second-level cache.
    // With channels last a stretch is a pixel, however many windows there are.
    const size_t most = (channels_last_ ? 256 : 1024) << 10;
    int64_t blocks = 1;
    do p.block = (p.per_strip + blocks - 1) / blocks;
    while (p.block > 1 && kernel.scratch(p) > most && ++blocks);
    // A channel of a small map is a page: threads that share its strips take 15 to 25 % longer.
    run_tasks(p, kernel, p.tasks(), p.strips);
  }

  WindowProblem p{};

 private:
  void cut(const Parameters& given) {
    p.window_height = given.window_size[0];
    p.window_width = given.window_size[1];
    STD_TORCH_CHECK(p.window_height > 0 && p.window_width > 0, "window_size: expected positive numbers");
    STD_TORCH_CHECK(given.shift[0] >= 0 && given.shift[1] >= 0, "shift: expected numbers that are not negative");
    const auto before = [](int64_t shift, int64_t size) { return (size - shift % size) % size; };
    p.before_top = before(given.shift[0], p.window_height);
    p.before_left = before(given.shift[1], p.window_width);
    p.strips = (p.before_top + p.height + p.window_height - 1) / p.window_height;
    p.per_strip = (p.before_left + p.breadth + p.window_width - 1) / p.window_width;
  }

  const Tensor& query_;
  bool channels_last_;
  ScalarType type_;
  int64_t tangents_;
};

using Results = std::tuple<Maybe, Maybe, Maybe, Maybe>;  // d_query, d_key, d_value, d_table
using BothResults = std::tuple<Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe>;  // and their tangents

/// The gradients of a call, or their tangents: the tasks write them where `to` says, d_table in parts.
class GradientTensors {
 public:
  GradientTensors(const Call& call, const Maybe& table, int64_t tangents, const std::vector<bool>& needs, Gradients& to)
      : p_(call.p), table_(table), tangents_(tangents) {
    STD_TORCH_CHECK(needs.size() == 4 && (table || !needs[3]), "needs: expected one flag for each input");
    if (needs[0]) d_query_ = call.result(p_.width, tangents, to.query);
    if (needs[1]) d_key_ = call.result(p_.width, tangents, to.key);
    if (needs[2]) d_value_ = call.result(p_.value_width, tangents, to.value);
    if (!needs[3]) return;
    const ScalarType sums = arithmetic(table->scalar_type());
    parts_ = torch::stable::new_empty(*table, {p_.tasks(), count(), p_.table_entries()}, sums);
    to.table = memory_of(*parts_);
  }

  /// After the tasks.
  Results finish() const { return {d_query_, d_key_, d_value_, parts_ ? Maybe(d_table()) : Maybe()}; }

 private:
  int64_t count() const { return tangents_ == NO_TANGENTS ? 1 : tangents_; }

  Tensor d_table() const {
    const auto shape = table_->sizes();
    const ScalarType type = table_->scalar_type();
    const Tensor sums = type == ScalarType::Double ? sum_parts<double>() : sum_parts<float>();
    Tensor to = result_like(*table_, tangents_, Shape(shape.begin(), shape.end()), type);
    return torch::stable::copy_(to, tangents_ == NO_TANGENTS ? torch::stable::select(sums, 0, 0) : sums);
  }

  /// [T, B | 1, heads | 1, 2h-1, 2w-1]: the tasks' parts added up in float64, in the order of the tasks.
  template <typename Real>
  Tensor sum_parts() const {
    const int64_t batch = table_->size(0), heads = table_->size(1), entries = p_.table_entries();
    const Shape shape{count(), batch, heads, 2 * p_.window_height - 1, 2 * p_.window_width - 1};
    const Tensor sums = torch::stable::new_zeros(*table_, shape, ScalarType::Double);
    auto* const to = static_cast<double*>(sums.mutable_data_ptr());
    const auto* part = reinterpret_cast<const Real*>(memory_of(*parts_));
    for (int64_t task = 0; task < p_.tasks(); ++task) {
      const WindowTask at(p_, task);
      for (int64_t t = 0; t < count(); ++t, part += entries) {
        double* const sum = to + ((t * batch + (batch == 1 ? 0 : at.b)) * heads + (heads == 1 ? 0 : at.h)) * entries;
        for (int64_t i = 0; i < entries; ++i) sum[i] += part[i];
      }
    }
    return sums;
  }

  const WindowProblem& p_;
  const Maybe& table_;
  int64_t tangents_;
  Maybe d_query_, d_key_, d_value_, parts_;
};

Tensor forward(Tensor query, Tensor key, Tensor value, Maybe table, std::vector<int64_t> window_size,
               std::vector<int64_t> shift, double scale, bool channels_last) {
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, NO_TANGENTS);
  const Tensor out = call.result(call.p.value_width, NO_TANGENTS, call.p.r_out);
  call.run(&RowMaps<WindowProblem>::forward);
  return out;
}

Tensor tangent(Tensor query, Tensor key, Tensor value, Maybe table, Maybe t_query, Maybe t_key, Maybe t_value,
               Maybe t_table, std::vector<int64_t> window_size, std::vector<int64_t> shift, double scale,
               bool channels_last) {
  const int64_t tangents = count_tangents({&t_query, &t_key, &t_value, &t_table});
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, tangents);
  call.add_tangents(t_query, t_key, t_value, t_table);
  const Tensor t_out = call.result(call.p.value_width, tangents, call.p.r_out);
  call.run(&RowMaps<WindowProblem>::tangent);
  return t_out;
}

std::tuple<Tensor, Tensor> forward_and_tangent(Tensor query, Tensor key, Tensor value, Maybe table, Maybe t_query,
                                               Maybe t_key, Maybe t_value, Maybe t_table,
                                               std::vector<int64_t> window_size, std::vector<int64_t> shift,
                                               double scale, bool channels_last) {
  const int64_t tangents = count_tangents({&t_query, &t_key, &t_value, &t_table});
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, tangents);
  call.add_tangents(t_query, t_key, t_value, t_table);
  const Tensor out = call.result(call.p.value_width, NO_TANGENTS, call.p.primal_out);
  const Tensor t_out = call.result(call.p.value_width, tangents, call.p.r_out);
  call.run(&RowMaps<WindowProblem>::tangent);
  return {out, t_out};
}

Results backward(Tensor query, Tensor key, Tensor value, Maybe table, Tensor grad, std::vector<int64_t> window_size,
                 std::vector<int64_t> shift, double scale, bool channels_last, std::vector<bool> needs) {
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, NO_TANGENTS);
  call.p.grad = call.primal("grad", grad, call.p.value_width);
  const GradientTensors d(call, table, NO_TANGENTS, needs, call.p.d);
  call.run(&RowMaps<WindowProblem>::backward);
  return d.finish();
}

/// The call of a tangent of `backward`.
Call second_order(const Tensor& query, const Tensor& key, const Tensor& value, const Maybe& table, const Tensor& grad,
                  const Maybe& t_query, const Maybe& t_key, const Maybe& t_value, const Maybe& t_table,
                  const Maybe& t_grad, const Parameters& parameters) {
  Call call(query, key, value, table, parameters, count_tangents({&t_query, &t_key, &t_value, &t_table, &t_grad}));
  call.p.grad = call.primal("grad", grad, call.p.value_width);
  call.add_tangents(t_query, t_key, t_value, t_table);
  call.p.t_grad = call.primed("t_grad", t_grad, call.p.value_width);
  return call;
}

Results backward_tangent(Tensor query, Tensor key, Tensor value, Maybe table, Tensor grad, Maybe t_query, Maybe t_key,
                         Maybe t_value, Maybe t_table, Maybe t_grad, std::vector<int64_t> window_size,
                         std::vector<int64_t> shift, double scale, bool channels_last, std::vector<bool> needs) {
  Call call = second_order(query, key, value, table, grad, t_query, t_key, t_value, t_table, t_grad,
                           {window_size, shift, scale, channels_last});
  const GradientTensors t_d(call, table, call.p.tangents, needs, call.p.d);
  call.run(&RowMaps<WindowProblem>::backward_tangent);
  return t_d.finish();
}

BothResults backward_and_tangent(Tensor query, Tensor key, Tensor value, Maybe table, Tensor grad, Maybe t_query,
                                 Maybe t_key, Maybe t_value, Maybe t_table, Maybe t_grad,
                                 std::vector<int64_t> window_size, std::vector<int64_t> shift, double scale,
                                 bool channels_last, std::vector<bool> needs) {
  Call call = second_order(query, key, value, table, grad, t_query, t_key, t_value, t_table, t_grad,
                           {window_size, shift, scale, channels_last});
  const GradientTensors d(call, table, NO_TANGENTS, needs, call.p.primal_d);
  const GradientTensors t_d(call, table, call.p.tangents, needs, call.p.d);
  call.run(&RowMaps<WindowProblem>::backward_tangent);
  return std::tuple_cat(d.finish(), t_d.finish());
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  const std::string x = "(Tensor query, Tensor key, Tensor value, Tensor? table";
  const std::string t_x = ", Tensor? t_query, Tensor? t_key, Tensor? t_value, Tensor? t_table";
  const std::string parameters = ", int[] window_size, int[] shift, float scale, bool channels_last";
  const std::string grads = ", Tensor grad" + t_x + ", Tensor? t_grad";
  const std::string needs = ", bool[] needs) -> ", four = "Tensor?, Tensor?, Tensor?, Tensor?";
  const auto define = [&m](const std::string& schema) { m.def(("window_attention_" + schema).c_str()); };
  define("forward" + x + parameters + ") -> Tensor");
  define("tangent" + x + t_x + parameters + ") -> Tensor");
  define("forward_and_tangent" + x + t_x + parameters + ") -> (Tensor, Tensor)");
  define("backward" + x + ", Tensor grad" + parameters + needs + "(" + four + ")");
  define("backward_tangent" + x + grads + parameters + needs + "(" + four + ")");
  define("backward_and_tangent" + x + grads + parameters + needs + "(" + four + ", " + four + ")");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("window_attention_forward", TORCH_BOX(&alternet::forward));
  m.impl("window_attention_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("window_attention_forward_and_tangent", TORCH_BOX(&alternet::forward_and_tangent));
  m.impl("window_attention_backward", TORCH_BOX(&alternet::backward));
  m.impl("window_attention_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
  m.impl("window_attention_backward_and_tangent", TORCH_BOX(&alternet::backward_and_tangent));
}
