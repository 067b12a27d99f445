// torch.ops.alternet_native.matrix_product*: products of float32 matrices in the tiles of AMX, and aten::mm by them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "csrc/instruction_set.h"
#include "csrc/tasks.h"
#include "matrix_product/problem.h"

namespace alternet {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// PyTorch's own, which the replacement of aten::mm does not change.
Tensor product_of_torch(const Tensor& a, const Tensor& b) {
  const Tensor out = torch::stable::new_empty(a, {0});
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

bool is_served(const Tensor& t) {
  return t.is_cpu() && t.scalar_type() == ScalarType::Float && t.dim() == 2 && (t.stride(0) == 1 || t.stride(1) == 1);
}

/// Whether the tiles are faster.
bool pays(const Tensor& a, const Tensor& b) {
  constexpr int64_t SHORTEST = 48, FEWEST = 7'000'000;  // measured on Sapphire Rapids
  const int64_t rows = a.size(0), depth = a.size(1), columns = b.size(1);
  return std::min({rows, depth, columns}) >= SHORTEST && rows * depth * columns >= FEWEST;
}

#if defined(__x86_64__)

/// The sums over parts of the depth.
Tensor sum_parts(const MatrixProduct& p, const Tensor& like) {
  const Tensor sums = torch::stable::new_empty(like, {p.rows, p.columns});
  float* const to = static_cast<float*>(sums.mutable_data_ptr());
  const int64_t size = p.rows * p.columns;
  torch::stable::parallel_for(0, size, 1 << 14, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) to[i] = p.c[i] + p.c[size + i];
    for (int64_t part = 2; part < p.depth_parts; ++part)
      for (int64_t i = first; i < end; ++i) to[i] += p.c[part * size + i];
  });
  return sums;
}

/// Whether the parts of the numbers of A (side 0) or B are what they should be: infinity has none, and those of very
/// small numbers are lost beside nothing larger.
bool has_parts(const MatrixProduct& p, int side) {
  constexpr float SMALL = 0x1p-60f, LARGE = 0x1p127f;
  float largest = 0;
  for (int64_t task = 0; task < p.tasks(); ++task) largest = std::max(largest, p.largest[2 * task + side]);
  return SMALL <= largest && largest < LARGE;
}

Tensor product_in_tiles(const Tensor& a, const Tensor& b) {
  MatrixProduct p;
  p.a = {static_cast<const float*>(a.data_ptr()), a.stride(0), a.stride(1)};
  p.b = {static_cast<const float*>(b.data_ptr()), b.stride(0), b.stride(1)};
  p.rows = a.size(0), p.depth = a.size(1), p.columns = b.size(1);
  p.cut(torch::stable::get_num_threads());
  const Tensor c = torch::stable::new_empty(a, {p.depth_parts * p.rows, p.columns});
  p.c = static_cast<float*>(c.mutable_data_ptr());
  std::vector<float> largest(2 * p.tasks());
  p.largest = largest.data();
  const auto& kernels = amx::matrix_product_kernels();
  run_tasks(p.tasks(), kernels.scratch(p), [&](int64_t task, char* memory) { kernels.run(p, task, memory); });
  if (!has_parts(p, 0) || !has_parts(p, 1)) return product_of_torch(a, b);
  return p.depth_parts == 1 ? c : sum_parts(p, a);
}

#else

Tensor product_in_tiles(const Tensor& a, const Tensor& b) { return product_of_torch(a, b); }

#endif

Tensor matrix_product(Tensor a, Tensor b) {
  STD_TORCH_CHECK(has_tiles() && is_served(a) && is_served(b) && a.size(1) == b.size(0) && a.numel() && b.numel(),
                  "matrix_product: expected float32 matrices [m, k] and [k, n], one stride of each 1, and AMX");
  return product_in_tiles(a, b);
}

thread_local std::vector<bool> entered;  // what this thread has entered and not left: whether products are served

/// What PyTorch's own checks before it comes to its kernel.
void check_mm(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.dim() == 2, "self must be a matrix");
  STD_TORCH_CHECK(b.dim() == 2, "mat2 must be a matrix");
  STD_TORCH_CHECK(a.size(1) == b.size(0), "mat1 and mat2 shapes cannot be multiplied (", a.size(0), "x", a.size(1),
                  " and ", b.size(0), "x", b.size(1), ")");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), "expected m1 and m2 to have the same dtype");
}

Tensor mm(Tensor a, Tensor b) {
  check_mm(a, b);
  const bool serve = !entered.empty() && entered.back() && has_tiles();
  return serve && is_served(a) && is_served(b) && pays(a, b) ? product_in_tiles(a, b) : product_of_torch(a, b);
}

/// Puts `mm` in the place of aten::mm on a CPU, once and for good: PyTorch's table of kernels may not be changed while
/// another thread reads it.
void replace_mm() {
  using torch::stable::detail::StableLibrary;
  static auto* const library = [] {
    auto* replacing = new StableLibrary(StableLibrary::Kind::IMPL, "aten", "CPU", __FILE__, __LINE__);
    replacing->impl("mm", TORCH_BOX(&mm));
    return replacing;
  }();
  static_cast<void>(library);
}

void enter_tiles(bool serve) {
  replace_mm();
  entered.push_back(serve);
}

void leave_tiles() {
  STD_TORCH_CHECK(!entered.empty(), "leave_tiles: this thread has not entered");
  entered.pop_back();
}

}  // namespace
}  // namespace alternet

STABLE_TORCH_LIBRARY_FRAGMENT(alternet_native, m) {
  m.def("matrix_product(Tensor a, Tensor b) -> Tensor");
  m.def("enter_tiles(bool serve) -> ()");
  m.def("leave_tiles() -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CPU, m) { m.impl("matrix_product", TORCH_BOX(&alternet::matrix_product)); }

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CompositeExplicitAutograd, m) {
  m.impl("enter_tiles", TORCH_BOX(&alternet::enter_tiles));
  m.impl("leave_tiles", TORCH_BOX(&alternet::leave_tiles));
}
