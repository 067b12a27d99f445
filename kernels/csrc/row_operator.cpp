#include "csrc/row_operator.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace alternet {
namespace {

RowTensor contiguous_memory(const char* name, const Tensor& tensor, ScalarType type) {
  STD_TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), name, ": expected a contiguous CPU tensor");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, ": its dtype does not go with x");
  static char nothing;  // an empty tensor may have no memory, but is there
  RowTensor result;
  result.data = tensor.numel() ? static_cast<char*>(tensor.data_ptr()) : &nothing;
  result.type = element_of(type);
  return result;
}

/// `axes` are the sizes that the tensor must have after T; an axis of size 1 has stride 0 where `broadcasts`.
RowTensor checked(const char* name, const Tensor& tensor, ScalarType type, int64_t tangents,
                  std::initializer_list<int64_t> axes) {
  std::vector<int64_t> expected(axes);
  if (tangents != NO_TANGENTS) expected.insert(expected.begin(), tangents);
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(static_cast<size_t>(tensor.dim()) == expected.size(), name, ": expected ", expected.size(), " axes");
  for (size_t i = 0; i < expected.size(); ++i)
    STD_TORCH_CHECK(sizes[i] == expected[i], name, ": size ", sizes[i], " of axis ", i, ", expected ", expected[i]);
  return contiguous_memory(name, tensor, type);
}

template <typename X>
void rounded(const std::vector<double>& from, const Tensor& to) {
  auto* const numbers = static_cast<X*>(to.mutable_data_ptr());
  for (size_t i = 0; i < from.size(); ++i) {
    if constexpr (sizeof(X) == 8) numbers[i] = from[i];
    else numbers[i] = static_cast<X>(static_cast<float>(from[i]));
  }
}

}  // namespace

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

ScalarType arithmetic(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

int64_t count_tangents(std::initializer_list<const Maybe*> tangents) {
  for (const Maybe* t : tangents)
    if (*t) return (*t)->size(0);
  STD_TORCH_CHECK(false, "expected a tangent, got none");
}

RowTensor row_tensor(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents) {
  RowTensor result = checked(name, tensor, type, tangents, {p.batch, p.rows, p.width});
  result.row = p.width;
  result.batch = p.rows * p.width;
  result.tangent = p.batch * p.rows * p.width;
  return result;
}

RowTensor flat_tensor(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents) {
  const int64_t count = tangents == NO_TANGENTS ? 1 : tangents;
  STD_TORCH_CHECK(tensor.numel() == count * p.width, name, ": expected x's shape");
  RowTensor result = contiguous_memory(name, tensor, type);
  result.tangent = p.width;
  return result;
}

RowTensor shared_row(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents) {
  STD_TORCH_CHECK(tensor.dim() >= 3, name, ": expected at least 3 axes");
  const int64_t batch = tensor.size(tensor.dim() - 3) == 1 ? 1 : p.batch;
  RowTensor result = checked(name, tensor, type, tangents, {batch, 1, p.width});
  result.batch = batch == 1 ? 0 : p.width;
  result.tangent = batch * p.width;
  return result;
}

RowTensor row_scalars(const char* name, const Tensor& tensor, ScalarType type, const RowSizes& p, int64_t tangents) {
  RowTensor result = checked(name, tensor, arithmetic(type), tangents, {p.batch, p.rows});
  result.row = 1;
  result.batch = p.rows;
  result.tangent = p.batch * p.rows;
  return result;
}

Tensor result_like(const Tensor& like, int64_t tangents, std::vector<int64_t> shape, ScalarType type) {
  if (tangents != NO_TANGENTS) shape.insert(shape.begin(), tangents);
  return torch::stable::new_empty(like, shape, type);
}

Tensor ColumnTotals::finish(const Tensor& like, int64_t tangents) const {
  const int64_t batch = like.size(0), width = p_.width;
  const int64_t tasks = p_.tasks() / std::max<int64_t>(batch, 1);  // of one of the result's batch
  std::vector<double> sums(p_.tangents * batch * width);           // [T, batch, D]
  for (int64_t task = 0; task < tasks * batch; ++task)
    for (int64_t t = 0; t < p_.tangents; ++t) {
      const double* from = totals_.data() + (task * p_.tangents + t) * width;
      double* const to = sums.data() + (t * batch + task / tasks) * width;
      for (int64_t j = 0; j < width; ++j) to[j] += from[j];
    }
  const Tensor result = result_like(like, tangents, {batch, 1, width}, like.scalar_type());
  switch (element_of(like.scalar_type())) {
    case Element::float32:
      rounded<float>(sums, result);
      break;
    case Element::float64:
      rounded<double>(sums, result);
      break;
    case Element::float16:
      rounded<torch::headeronly::Half>(sums, result);
      break;
    case Element::bfloat16:
      rounded<torch::headeronly::BFloat16>(sums, result);
      break;
  }
  return result;
}

}  // namespace alternet
