// Tensors as a WindowProblem holds them. Shapes and dtypes are checked where users call; what is checked here guards
// the memory.
#pragma once

#include "csrc/row_operator.h"
#include "window_attention/problem.h"

namespace alternet::window_attention {

using Shape = std::vector<int64_t>;

/// [T,] B, heads, D, H, W; with `channels_last` [T,] B, H, W, heads, D.
inline Shape map_shape(const WindowProblem& p, int64_t channels, bool channels_last) {
  if (channels_last) return {p.batch, p.height, p.breadth, p.heads, channels};
  return {p.batch, p.heads, channels, p.height, p.breadth};
}

inline void check(const char* name, const Tensor& tensor, ScalarType type, const Shape& shape, int64_t tangents,
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

inline char* memory_of(const Tensor& tensor) {
  static char nothing;  // an empty tensor may have no memory, but is there
  return tensor.numel() ? static_cast<char*>(tensor.data_ptr()) : &nothing;
}

inline FeatureMap feature_map(const char* name, const Tensor& tensor, const WindowProblem& p, int64_t channels,
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

inline Shape table_shape(const WindowProblem& p) {
  return {p.batch, p.heads, 2 * p.window_height - 1, 2 * p.window_width - 1};
}

inline Operand table_operand(const char* name, const Maybe& table, const WindowProblem& p, ScalarType type,
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

}  // namespace alternet::window_attention
