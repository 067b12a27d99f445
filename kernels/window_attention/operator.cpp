// torch.ops.alternet_native.window_attention_*: from tensors to a WindowProblem, and results back.
#include <tuple>

#include "csrc/row_operator.h"
#include "window_attention/problem.h"

namespace alternet {
ALTERNET_ROW_KERNELS(window_attention_kernels, WindowProblem)
namespace {

using Map = RowMap<WindowProblem> RowMaps<WindowProblem>::*;
using Shape = std::vector<int64_t>;

/// The parameters of a call, as they come.
struct Parameters {
  const std::vector<int64_t>&window_size, &shift;
  double scale;
  bool channels_last;
};

/// [T,] B, heads, D, H, W; with `channels_last` [T,] B, H, W, heads, D.
Shape map_shape(const WindowProblem& p, int64_t channels, bool channels_last) {
  if (channels_last) return {p.batch, p.height, p.breadth, p.heads, channels};
  return {p.batch, p.heads, channels, p.height, p.breadth};
}

void check(const char* name, const Tensor& tensor, ScalarType type, const Shape& shape, int64_t tangents,
           bool broadcasts) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": its dtype does not go with query's");
  const size_t lead = tangents == NO_TANGENTS ? 0 : 1;
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(sizes.size() == lead + shape.size(), name, ": expected ", lead + shape.size(), " axes");
  STD_TORCH_CHECK(lead == 0 || sizes[0] == tangents, name, ": expected ", tangents, " tangents");
  for (size_t i = 0; i < shape.size(); ++i)
    STD_TORCH_CHECK(sizes[lead + i] == shape[i] || (broadcasts && sizes[lead + i] == 1), name, ": size ",
                    sizes[lead + i], " of axis ", lead + i, ", expected ", shape[i]);
}

char* memory_of(const Tensor& tensor) {
  static char nothing;  // an empty tensor may have no memory, but is there
  return tensor.numel() ? static_cast<char*>(tensor.data_ptr()) : &nothing;
}

FeatureMap feature_map(const char* name, const Tensor& tensor, const WindowProblem& p, int64_t channels,
                       bool channels_last, ScalarType type, int64_t tangents) {
  check(name, tensor, type, map_shape(p, channels, channels_last), tangents, false);
  const auto strides = tensor.strides();
  const auto* s = strides.data() + (tangents == NO_TANGENTS ? 0 : 1);
  FeatureMap map;
  map.data = memory_of(tensor);
  map.type = element_of(type);
  map.tangent = tangents == NO_TANGENTS ? 0 : strides[0];
  map.batch = s[0];
  map.head = s[channels_last ? 3 : 1];
  map.channel = s[channels_last ? 4 : 2];
  map.row = s[channels_last ? 1 : 3];
  map.column = s[channels_last ? 2 : 4];
  return map;
}

Shape table_shape(const WindowProblem& p) {
  return {p.batch, p.heads, 2 * p.window_height - 1, 2 * p.window_width - 1};
}

Operand table_operand(const char* name, const Maybe& table, const WindowProblem& p, ScalarType type,
                      int64_t tangents) {
  if (!table) return {};
  check(name, *table, type, table_shape(p), tangents, true);
  const auto sizes = table->sizes(), strides = table->strides();
  const size_t lead = tangents == NO_TANGENTS ? 0 : 1;
  const auto stride = [&](size_t axis) { return sizes[lead + axis] == 1 ? 0 : strides[lead + axis]; };
  Operand result;
  result.data = memory_of(*table);
  result.type = element_of(type);
  result.tangent = lead ? strides[0] : 0;
  result.batch = stride(0);
  result.head = stride(1);
  result.row = stride(2);
  result.column = stride(3);
  return result;
}

/// A call in the making: its tensors are added one by one.
class Call {
 public:
  Call(const Tensor& query, const Tensor& key, const Tensor& value, const Maybe& table, const Parameters& given,
       int64_t tangents)
      : channels_last_(given.channels_last), type_(query.scalar_type()), tangents_(tangents) {
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

  /// A result, uninitialised, and where the tasks write it.
  Tensor result(const Tensor& like, int64_t channels, FeatureMap& to) const {
    const Tensor tensor = result_like(like, tangents_, map_shape(p, channels, channels_last_), type_);
    to = feature_map("result", tensor, p, channels, channels_last_, type_, tangents_);
    return tensor;
  }

  void run(Map map) {
    const auto& kernel = window_attention_kernels(type_).*map;
    // As many windows together as a second-level cache holds: the longer a stretch of memory, the better it is read.
    constexpr size_t CACHE = 512 << 10;
    int64_t blocks = 1;
    do p.block = (p.per_strip + blocks - 1) / blocks;
    while (p.block > 1 && kernel.scratch(p) > CACHE && ++blocks);
    run_tasks(p, kernel, p.tasks());
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

  bool channels_last_;
  ScalarType type_;
  int64_t tangents_;
};

/// d_table [T, B | 1, heads | 1, 2h-1, 2w-1]: the tasks' parts added up in float64, in the order of the tasks.
template <typename Real>
Tensor sum_parts(const WindowProblem& p, const Tensor& table) {
  const int64_t batch = table.size(0), heads = table.size(1), entries = p.table_entries();
  const Shape shape{p.tangents, batch, heads, 2 * p.window_height - 1, 2 * p.window_width - 1};
  const Tensor sums = torch::stable::new_zeros(table, shape, ScalarType::Double);
  auto* const to = static_cast<double*>(sums.mutable_data_ptr());
  const auto* part = reinterpret_cast<const Real*>(p.d_table);
  for (int64_t task = 0; task < p.tasks(); ++task) {
    const WindowTask at(p, task);
    for (int64_t t = 0; t < p.tangents; ++t, part += entries) {
      double* const sum = to + ((t * batch + (batch == 1 ? 0 : at.b)) * heads + (heads == 1 ? 0 : at.h)) * entries;
      for (int64_t i = 0; i < entries; ++i) sum[i] += part[i];
    }
  }
  return sums;
}

Tensor forward(Tensor query, Tensor key, Tensor value, Maybe table, std::vector<int64_t> window_size,
               std::vector<int64_t> shift, double scale, bool channels_last) {
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, NO_TANGENTS);
  const Tensor out = call.result(value, call.p.value_width, call.p.r_out);
  call.run(&RowMaps<WindowProblem>::forward);
  return out;
}

Tensor tangent(Tensor query, Tensor key, Tensor value, Maybe table, Maybe t_query, Maybe t_key, Maybe t_value,
               Maybe t_table, std::vector<int64_t> window_size, std::vector<int64_t> shift, double scale,
               bool channels_last) {
  const int64_t tangents = count_tangents({&t_query, &t_key, &t_value, &t_table});
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, tangents);
  call.add_tangents(t_query, t_key, t_value, t_table);
  const Tensor out = call.result(value, call.p.value_width, call.p.r_out);
  call.run(&RowMaps<WindowProblem>::tangent);
  return out;
}

using Gradients = std::tuple<Maybe, Maybe, Maybe, Maybe>;

/// backward (NO_TANGENTS) or backward_tangent.
Gradients run_gradients(Call& call, Map map, int64_t tangents, const Tensor& query, const Maybe& table,
                        const std::vector<bool>& needs) {
  STD_TORCH_CHECK(needs.size() == 4 && (table || !needs[3]), "needs: expected one flag for each input");
  WindowProblem& p = call.p;
  Maybe d_query, d_key, d_value, d_table;
  if (needs[0]) d_query = call.result(query, p.width, p.d_query);
  if (needs[1]) d_key = call.result(query, p.width, p.d_key);
  if (needs[2]) d_value = call.result(query, p.value_width, p.d_value);
  if (!needs[3]) {
    call.run(map);
    return {d_query, d_key, d_value, d_table};
  }
  const ScalarType type = query.scalar_type();
  const Tensor parts = torch::stable::new_empty(query, {p.tasks(), p.tangents, p.table_entries()}, arithmetic(type));
  p.d_table = memory_of(parts);
  call.run(map);
  const Tensor sums = type == ScalarType::Double ? sum_parts<double>(p, *table) : sum_parts<float>(p, *table);
  const auto shape = table->sizes();
  Tensor to = result_like(*table, tangents, Shape(shape.begin(), shape.end()), type);
  d_table = torch::stable::copy_(to, tangents == NO_TANGENTS ? torch::stable::select(sums, 0, 0) : sums);
  return {d_query, d_key, d_value, d_table};
}

Gradients backward(Tensor query, Tensor key, Tensor value, Maybe table, Tensor grad, std::vector<int64_t> window_size,
                   std::vector<int64_t> shift, double scale, bool channels_last, std::vector<bool> needs) {
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, NO_TANGENTS);
  call.p.grad = call.primal("grad", grad, call.p.value_width);
  return run_gradients(call, &RowMaps<WindowProblem>::backward, NO_TANGENTS, query, table, needs);
}

Gradients backward_tangent(Tensor query, Tensor key, Tensor value, Maybe table, Tensor grad, Maybe t_query,
                           Maybe t_key, Maybe t_value, Maybe t_table, Maybe t_grad, std::vector<int64_t> window_size,
                           std::vector<int64_t> shift, double scale, bool channels_last, std::vector<bool> needs) {
  const int64_t tangents = count_tangents({&t_query, &t_key, &t_value, &t_table, &t_grad});
  Call call(query, key, value, table, {window_size, shift, scale, channels_last}, tangents);
  call.p.grad = call.primal("grad", grad, call.p.value_width);
  call.add_tangents(t_query, t_key, t_value, t_table);
  call.p.t_grad = call.primed("t_grad", t_grad, call.p.value_width);
  return run_gradients(call, &RowMaps<WindowProblem>::backward_tangent, tangents, query, table, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  const std::string x = "(Tensor query, Tensor key, Tensor value, Tensor? table";
  const std::string t_x = ", Tensor? t_query, Tensor? t_key, Tensor? t_value, Tensor? t_table";
  const std::string parameters = ", int[] window_size, int[] shift, float scale, bool channels_last";
  const std::string gradients = ", bool[] needs) -> (Tensor?, Tensor?, Tensor?, Tensor?)";
  m.def(("window_attention_forward" + x + parameters + ") -> Tensor").c_str());
  m.def(("window_attention_tangent" + x + t_x + parameters + ") -> Tensor").c_str());
  m.def(("window_attention_backward" + x + ", Tensor grad" + parameters + gradients).c_str());
  m.def(("window_attention_backward_tangent" + x + ", Tensor grad" + t_x + ", Tensor? t_grad" + parameters + gradients)
            .c_str());
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("window_attention_forward", TORCH_BOX(&alternet::forward));
  m.impl("window_attention_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("window_attention_backward", TORCH_BOX(&alternet::backward));
  m.impl("window_attention_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
}
