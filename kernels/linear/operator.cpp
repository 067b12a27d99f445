// torch.ops.alternet_native.weight_product: the gradient of a linear layer's weight in bfloat16, by the tiles of AMX.
// What it serves is decided in weight_product.py; what is checked here guards the memory.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "csrc/instruction_set.h"
#include "csrc/tasks.h"
#include "linear/problem.h"

namespace alternet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Rows16 rows_of(const Tensor& t, const char* name, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::BFloat16 && t.dim() == 2 && t.size(0) == rows &&
                      t.size(1) == columns && t.stride(1) == 1,
                  name, ": expected a bfloat16 matrix [", rows, ", ", columns, "] on the CPU with contiguous rows");
  return {static_cast<const uint16_t*>(t.data_ptr()), t.stride(0)};
}

#if defined(__x86_64__)

/// gᵀ x, or gᵀ x + more_gᵀ more_x.
Tensor weight_product(Tensor g, Tensor x, std::optional<Tensor> more_g, std::optional<Tensor> more_x) {
  STD_TORCH_CHECK(has_tiles(), "weight_product: needs AMX");
  STD_TORCH_CHECK(g.dim() == 2 && x.dim() == 2, "weight_product: expected matrices");
  STD_TORCH_CHECK(more_g.has_value() == more_x.has_value(), "weight_product: got half of a pair");
  WeightProduct p;
  p.depth = g.size(0), p.rows = g.size(1), p.columns = x.size(1);
  STD_TORCH_CHECK(p.depth > 0 && p.rows > 0 && p.columns > 0 && p.rows % WeightProduct::BLOCK == 0 &&
                      p.columns % WeightProduct::BLOCK == 0,
                  "weight_product: expected multiples of ", WeightProduct::BLOCK, ", got ", p.rows, " and ", p.columns);
  p.terms[0] = {rows_of(g, "g", p.depth, p.rows), rows_of(x, "x", p.depth, p.columns)};
  p.count = 1;
  if (more_g)
    p.terms[p.count++] = {rows_of(*more_g, "more_g", p.depth, p.rows), rows_of(*more_x, "more_x", p.depth, p.columns)};
  p.cut(torch::stable::get_num_threads());
  const Tensor c = torch::stable::new_empty(g, {p.rows, p.columns});
  p.c = static_cast<uint16_t*>(c.mutable_data_ptr());
  const auto& kernels = amx::weight_product_kernels();
  run_tasks(p.tasks(), kernels.scratch(p), [&](int64_t task, char* memory) { kernels.run(p, task, memory); });
  return c;
}

#else

Tensor weight_product(Tensor, Tensor, std::optional<Tensor>, std::optional<Tensor>) {
  STD_TORCH_CHECK(false, "weight_product: needs AMX");
}

#endif

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def("weight_product(Tensor g, Tensor x, Tensor? more_g, Tensor? more_x) -> Tensor");
  m.def("has_tiles() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) { m.impl("weight_product", TORCH_BOX(&alternet::weight_product)); }

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CompositeExplicitAutograd, m) {
  m.impl("has_tiles", TORCH_BOX(&alternet::has_tiles));
}
