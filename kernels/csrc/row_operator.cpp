#include "csrc/row_operator.h"

#include <cstring>

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
  const int64_t batch = like.size(0), width = p_.tangents * p_.width;
  const Tensor sums = result_like(like, p_.tangents, {batch, 1, p_.width}, ScalarType::Double);
  auto* const to = static_cast<double*>(sums.mutable_data_ptr());
  std::vector<double> total(width);
  const int64_t tasks = p_.tasks() / std::max<int64_t>(batch, 1);
  for (int64_t b = 0; b < batch; ++b) {
    std::fill(total.begin(), total.end(), 0.0);
    for (int64_t task = b * tasks; task < (b + 1) * tasks; ++task)
      for (int64_t j = 0; j < width; ++j) total[j] += totals_[task * width + j];
    for (int64_t t = 0; t < p_.tangents; ++t)
      std::memcpy(to + (t * batch + b) * p_.width, total.data() + t * p_.width, p_.width * sizeof(double));
  }
  const Tensor result = result_like(like, tangents, {batch, 1, p_.width}, like.scalar_type());
  Tensor target = result;
  return torch::stable::copy_(target, tangents == NO_TANGENTS ? torch::stable::select(sums, 0, 0) : sums);
}

}  // namespace alternet
