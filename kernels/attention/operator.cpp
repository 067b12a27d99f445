// torch.ops.alternet_native.attention_*: from tensors to a Problem, and results back. Shapes and dtypes are checked
// where users call (kernels/attention/__init__.py); what is checked here guards the memory.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "attention/bias_sharing.h"
#include "attention/launch.h"
#include "csrc/instruction_set.h"

namespace alternet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
using Shape = std::vector<int64_t>;

Element element_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return Element::float32;
    case ScalarType::Double:
      return Element::float64;
    case ScalarType::Half:
      return Element::float16;
    case ScalarType::BFloat16:
      return Element::bfloat16;
    default:
      STD_TORCH_CHECK(false, "expected float16, bfloat16, float32 or float64");
  }
}

/// The dtype that sums are taken in.
ScalarType arithmetic(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

using Axes = std::array<int64_t, 4>;  // [B, H, rows, columns]
constexpr int64_t NONE = -1;          // as columns: the tensor has no such axis
constexpr int64_t NO_TANGENTS = -1;   // likewise for T

/// A tensor of shape [T,] B, H, rows [, columns] as an operand. Axes of size 1 are broadcast, if `broadcasts` also
/// where the shape has more.
Operand operand(const char* name, const Tensor& tensor, ScalarType type, int64_t tangents, const Axes& axes,
                bool broadcasts = false) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, ": expected a CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": its dtype does not go with query's");
  const int64_t expected = (tangents != NO_TANGENTS) + 3 + (axes[3] != NONE);
  STD_TORCH_CHECK(tensor.dim() == expected, name, ": expected ", expected, " axes, got ", tensor.dim());

  const auto sizes = tensor.sizes(), strides = tensor.strides();
  size_t axis = 0;
  const auto stride = [&](int64_t size, bool broadcast) -> int64_t {
    if (size == NONE) return 0;
    const bool fits = sizes[axis] == size || (broadcast && sizes[axis] == 1);
    STD_TORCH_CHECK(fits, name, ": size ", sizes[axis], " of axis ", axis, ", expected ", size);
    const int64_t s = sizes[axis] == 1 ? 0 : strides[axis];
    ++axis;
    return s;
  };
  static char nothing;  // an empty tensor may have no memory, but is there
  Operand result;
  result.data = tensor.numel() ? static_cast<char*>(tensor.data_ptr()) : &nothing;
  result.type = element_of(type);
  result.tangent = stride(tangents, false);
  result.batch = stride(axes[0], broadcasts);
  result.head = stride(axes[1], broadcasts);
  result.row = stride(axes[2], broadcasts);
  result.column = stride(axes[3], broadcasts);
  return result;
}

Operand operand(const char* name, const Maybe& tensor, ScalarType type, int64_t tangents, const Axes& axes,
                bool broadcasts = false) {
  return tensor ? operand(name, *tensor, type, tangents, axes, broadcasts) : Operand{};
}

/// The same for a tensor with a head for each group of heads.
template <typename AnyTensor>
Operand grouped(const char* name, const AnyTensor& tensor, ScalarType type, int64_t tangents, const Axes& axes,
                int64_t group) {
  Operand result = operand(name, tensor, type, tangents, axes);
  result.group = group;
  return result;
}

/// The shapes of a problem's tensors.
Axes query_axes(const Problem& p) { return {p.batch, p.heads, p.queries, p.width}; }
Axes key_axes(const Problem& p) { return {p.batch, p.heads / p.group, p.keys, p.width}; }
Axes value_axes(const Problem& p) { return {p.batch, p.heads / p.group, p.keys, p.value_width}; }
Axes out_axes(const Problem& p) { return {p.batch, p.heads, p.queries, p.value_width}; }
Axes lse_axes(const Problem& p) { return {p.batch, p.heads, p.queries, NONE}; }
Axes score_axes(const Problem& p) { return {p.batch, p.heads, p.queries, p.keys}; }

Axes table_axes(const Problem& p) { return {p.batch, p.heads, 2 * p.grid.height - 1, 2 * p.grid.width - 1}; }

/// The parameters of a call, as they come: grid and kernel_size are pairs, or empty.
struct Parameters {
  double scale;
  bool is_causal;
  std::vector<int64_t> grid, kernel_size;
};

Grid grid_of(const Parameters& given, int64_t queries, int64_t keys) {
  Grid grid{};
  if (given.grid.empty()) {
    STD_TORCH_CHECK(given.kernel_size.empty(), "kernel_size: expected a grid with it");
    return grid;
  }
  STD_TORCH_CHECK(given.grid.size() == 2 && given.kernel_size.size() % 2 == 0, "grid, kernel_size: expected pairs");
  grid.height = given.grid[0];
  grid.width = given.grid[1];
  STD_TORCH_CHECK(grid.height > 0 && grid.width > 0 && grid.height * grid.width == queries && queries == keys,
                  "grid: it does not have as many tokens as query and key");
  if (given.kernel_size.empty()) return grid;
  grid.local = true;
  grid.up = (given.kernel_size[0] - 1) / 2;
  grid.down = given.kernel_size[0] / 2;
  grid.left = (given.kernel_size[1] - 1) / 2;
  grid.right = given.kernel_size[1] / 2;
  return grid;
}

Problem problem(const Tensor& query, const Tensor& key, const Tensor& value, const Maybe& bias, const Maybe& table,
                const Parameters& given) {
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && value.dim() == 4, "query, key, value: expected 4 axes");
  Problem p{};
  p.batch = query.size(0);
  p.heads = query.size(1);
  p.queries = query.size(2);
  p.group = key.size(1) > 0 ? p.heads / key.size(1) : 1;
  STD_TORCH_CHECK(p.group * key.size(1) == p.heads, "key: ", key.size(1), " heads do not divide query's ", p.heads);
  p.keys = key.size(2);
  p.width = query.size(3);
  p.value_width = value.size(3);
  STD_TORCH_CHECK(1 <= p.width && p.width <= MAX_WIDTH, "query: head size ", p.width, ", expected 1 to ", MAX_WIDTH);
  STD_TORCH_CHECK(1 <= p.value_width && p.value_width <= MAX_WIDTH, "value: head size ", p.value_width,
                  ", expected 1 to ", MAX_WIDTH);
  p.tangents = 1;
  p.scale = given.scale;
  p.causal = given.is_causal;
  p.grid = grid_of(given, p.queries, p.keys);
  const ScalarType type = query.scalar_type();
  p.pairs = type == ScalarType::BFloat16 && instruction_set() >= InstructionSet::avx512_bf16;
  p.query = operand("query", query, type, NO_TANGENTS, query_axes(p));
  p.key = grouped("key", key, type, NO_TANGENTS, key_axes(p), p.group);
  p.value = grouped("value", value, type, NO_TANGENTS, value_axes(p), p.group);
  p.bias = operand("bias", bias, type, NO_TANGENTS, score_axes(p), true);
  STD_TORCH_CHECK(!table || p.grid, "table: expected a grid with it");
  p.table = operand("table", table, type, NO_TANGENTS, table_axes(p), true);
  return p;
}

void add_outputs(Problem& p, ScalarType type, const Tensor& out, const Tensor& lse) {
  p.out = operand("out", out, type, NO_TANGENTS, out_axes(p));
  p.lse = operand("lse", lse, arithmetic(type), NO_TANGENTS, lse_axes(p));
}

void add_tangents(Problem& p, ScalarType type, const Maybe& query, const Maybe& key, const Maybe& value,
                  const Maybe& bias, const Maybe& table) {
  p.t_query = operand("t_query", query, type, p.tangents, query_axes(p));
  p.t_key = grouped("t_key", key, type, p.tangents, key_axes(p), p.group);
  p.t_value = grouped("t_value", value, type, p.tangents, value_axes(p), p.group);
  p.t_bias = operand("t_bias", bias, type, p.tangents, score_axes(p), true);
  STD_TORCH_CHECK(!table || p.table, "t_table: expected a table with it");
  p.t_table = operand("t_table", table, type, p.tangents, table_axes(p), true);
}

int64_t count_tangents(std::initializer_list<const Maybe*> tangents) {
  for (const Maybe* t : tangents)
    if (*t) return (*t)->size(0);
  STD_TORCH_CHECK(false, "expected a tangent, got none");
}

bool empty(const Problem& p) { return p.tangents * p.batch * p.heads * p.queries * p.keys == 0; }

/// A result, [T,] shape; zeros if no task will write it.
Tensor allocate(const Problem& p, const Tensor& like, int64_t tangents, Shape shape, ScalarType type) {
  if (tangents != NO_TANGENTS) shape.insert(shape.begin(), tangents);
  return empty(p) ? torch::stable::new_zeros(like, shape, type) : torch::stable::new_empty(like, shape, type);
}

/// forward (NO_TANGENTS) or tangent: out and lse, or theirs.
std::tuple<Tensor, Tensor> run_outputs(Problem& p, MapName map, int64_t tangents, const Tensor& query) {
  const ScalarType type = query.scalar_type();
  const Tensor out = allocate(p, query, tangents, {p.batch, p.heads, p.queries, p.value_width}, type);
  const Tensor lse = allocate(p, query, tangents, {p.batch, p.heads, p.queries}, arithmetic(type));
  p.r_out = operand("out", out, type, tangents, out_axes(p));
  p.r_lse = operand("lse", lse, arithmetic(type), tangents, lse_axes(p));
  if (!empty(p)) {
    p.plan = make_plan(p, map);
    run(p, map, element_of(arithmetic(type)));
  }
  return {out, lse};
}

std::tuple<Tensor, Tensor> forward(Tensor query, Tensor key, Tensor value, Maybe bias, Maybe table, double scale,
                                   bool is_causal, std::vector<int64_t> grid, std::vector<int64_t> kernel_size) {
  Problem p = problem(query, key, value, bias, table, {scale, is_causal, grid, kernel_size});
  auto [out, lse] = run_outputs(p, MapName::forward, NO_TANGENTS, query);
  if (p.keys == 0) torch::stable::fill_(lse, std::numeric_limits<double>::infinity());
  return {out, lse};
}

std::tuple<Tensor, Tensor> tangent(Tensor query, Tensor key, Tensor value, Maybe bias, Maybe table, Tensor out,
                                   Tensor lse, Maybe t_query, Maybe t_key, Maybe t_value, Maybe t_bias, Maybe t_table,
                                   double scale, bool is_causal, std::vector<int64_t> grid,
                                   std::vector<int64_t> kernel_size) {
  Problem p = problem(query, key, value, bias, table, {scale, is_causal, grid, kernel_size});
  p.tangents = count_tangents({&t_query, &t_key, &t_value, &t_bias, &t_table});
  add_outputs(p, query.scalar_type(), out, lse);
  add_tangents(p, query.scalar_type(), t_query, t_key, t_value, t_bias, t_table);
  return run_outputs(p, MapName::tangent, p.tangents, query);
}

using Gradients = std::tuple<Maybe, Maybe, Maybe, Maybe, Maybe>;

/// Allocates, one after the other, the gradients that are needed, and converts them when they are there: a sum of
/// several tasks is taken in the arithmetic dtype.
class GradientTensors {
 public:
  GradientTensors(const Problem& problem, ScalarType type, int64_t tangents)
      : p_(problem), type_(type), tangents_(tangents) {}

  template <typename Shared>
  void add(int index, const Tensor& input, const Axes& axes, Operand Problem::* result, Problem& p, Shared shared) {
    const auto sizes = input.sizes();
    const auto make = [&](ScalarType type) {
      tensors_[index] = allocate(p_, input, tangents_, Shape(sizes.begin(), sizes.end()), type);
      p.*result = operand("gradient", *tensors_[index], type, tangents_, axes, true);
      if (axes[1] != p.heads) (p.*result).group = p.group;
    };
    make(type_);
    if (type_ != arithmetic(type_) && !empty(p_) && shared()) make(arithmetic(type_));
  }

  Maybe finish(int index) const {
    if (!tensors_[index] || tensors_[index]->scalar_type() == type_) return tensors_[index];
    Tensor narrow = torch::stable::new_empty(*tensors_[index], tensors_[index]->sizes(), type_);
    return torch::stable::copy_(narrow, *tensors_[index]);
  }

 private:
  const Problem& p_;
  ScalarType type_;
  int64_t tangents_;
  Maybe tensors_[5];
};

/// backward (NO_TANGENTS) or backward_tangent.
Gradients run_gradients(Problem& p, MapName map, int64_t tangents, const Tensor& query, const Tensor& key,
                        const Tensor& value, const Maybe& bias, const Maybe& table, const std::vector<bool>& needs) {
  STD_TORCH_CHECK(needs.size() == 5 && (bias || !needs[3]) && (table || !needs[4]),
                  "needs: expected one flag for each input");
  const ScalarType type = query.scalar_type();
  if (!empty(p)) p.plan = make_plan(p, map);
  GradientTensors gradients(p, type, tangents);
  const auto never = [] { return false; };
  const auto always = [] { return true; };
  const auto if_shared = [&] { return p.plan.chunks * p.group > 1; };
  const auto if_broadcast = [&] { return BiasSharing(p).sharers() > 1; };
  if (needs[0]) gradients.add(0, query, query_axes(p), &Problem::d_query, p, never);
  if (needs[1]) gradients.add(1, key, key_axes(p), &Problem::d_key, p, if_shared);
  if (needs[2]) gradients.add(2, value, value_axes(p), &Problem::d_value, p, if_shared);
  if (needs[3]) gradients.add(3, *bias, score_axes(p), &Problem::d_bias, p, if_broadcast);
  if (needs[4]) gradients.add(4, *table, table_axes(p), &Problem::d_table, p, always);
  const bool any = p.has_score_gradient() || p.d_value;
  if (any && !empty(p)) run(p, map, element_of(arithmetic(type)));
  return {gradients.finish(0), gradients.finish(1), gradients.finish(2), gradients.finish(3),
          gradients.finish(4)};
}

Gradients backward(Tensor query, Tensor key, Tensor value, Maybe bias, Maybe table, Tensor out, Tensor lse, Tensor grad,
                   double scale, bool is_causal, std::vector<int64_t> grid, std::vector<int64_t> kernel_size,
                   std::vector<bool> needs) {
  Problem p = problem(query, key, value, bias, table, {scale, is_causal, grid, kernel_size});
  add_outputs(p, query.scalar_type(), out, lse);
  p.grad = operand("grad", grad, query.scalar_type(), NO_TANGENTS, out_axes(p));
  return run_gradients(p, MapName::backward, NO_TANGENTS, query, key, value, bias, table, needs);
}

Gradients backward_tangent(Tensor query, Tensor key, Tensor value, Maybe bias, Maybe table, Tensor out, Tensor lse,
                           Tensor grad, Maybe t_query, Maybe t_key, Maybe t_value, Maybe t_bias, Maybe t_table,
                           Maybe t_out, Maybe t_lse, Maybe t_grad, double scale, bool is_causal,
                           std::vector<int64_t> grid, std::vector<int64_t> kernel_size, std::vector<bool> needs) {
  Problem p = problem(query, key, value, bias, table, {scale, is_causal, grid, kernel_size});
  const ScalarType type = query.scalar_type();
  p.tangents = count_tangents({&t_query, &t_key, &t_value, &t_bias, &t_table, &t_grad});
  add_outputs(p, type, out, lse);
  p.grad = operand("grad", grad, type, NO_TANGENTS, out_axes(p));
  add_tangents(p, type, t_query, t_key, t_value, t_bias, t_table);
  p.t_out = operand("t_out", t_out, type, p.tangents, out_axes(p));
  p.t_lse = operand("t_lse", t_lse, arithmetic(type), p.tangents, lse_axes(p));
  p.t_grad = operand("t_grad", t_grad, type, p.tangents, out_axes(p));
  STD_TORCH_CHECK(!p.has_score_tangent() || p.t_lse, "t_lse: expected a tensor, got none");
  return run_gradients(p, MapName::backward_tangent, p.tangents, query, key, value, bias, table, needs);
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  const std::string x = "(Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? table";
  const std::string t_x = ", Tensor? t_query, Tensor? t_key, Tensor? t_value, Tensor? t_bias, Tensor? t_table";
  const std::string parameters = ", float scale, bool is_causal, int[] grid, int[] kernel_size";
  const std::string outputs = ") -> (Tensor, Tensor)";
  const std::string gradients = ", bool[] needs) -> (Tensor?, Tensor?, Tensor?, Tensor?, Tensor?)";
  const std::string given = ", Tensor out, Tensor lse, Tensor grad";
  const std::string primed = ", Tensor? t_out, Tensor? t_lse, Tensor? t_grad";
  m.def(("attention_forward" + x + parameters + outputs).c_str());
  m.def(("attention_tangent" + x + ", Tensor out, Tensor lse" + t_x + parameters + outputs).c_str());
  m.def(("attention_backward" + x + given + parameters + gradients).c_str());
  m.def(("attention_backward_tangent" + x + given + t_x + primed + parameters + gradients).c_str());
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&alternet::forward));
  m.impl("attention_tangent", TORCH_BOX(&alternet::tangent));
  m.impl("attention_backward", TORCH_BOX(&alternet::backward));
  m.impl("attention_backward_tangent", TORCH_BOX(&alternet::backward_tangent));
}
