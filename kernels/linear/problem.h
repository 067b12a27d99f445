// The gradient of a linear layer's weight and how it is cut into tasks. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "csrc/range.h"

namespace alternet {

/// A bfloat16 matrix whose rows are contiguous.
struct Rows16 {
  const uint16_t* data;
  int64_t stride;
};

/// C [rows, columns] = the sum over terms of Gᵀ X, for G [depth, rows] and X [depth, columns]; rounded once.
struct WeightProduct {
  static constexpr int64_t BLOCK = 32;  // rows and columns are multiples of it

  struct {
    Rows16 g, x;
  } terms[2];
  int count;  // of terms
  int64_t rows, columns, depth;
  int64_t row_parts = 1, column_parts = 1;
  uint16_t* c;  // contiguous

  int64_t tasks() const { return row_parts * column_parts; }

  /// The longer side first, so that little is packed twice.
  void cut(int64_t threads) {
    int64_t& first = rows >= columns ? row_parts : column_parts;
    int64_t& second = rows >= columns ? column_parts : row_parts;
    first = std::min(threads, std::max(rows, columns) / BLOCK);
    second = std::min(ceil_divide(threads, first), std::min(rows, columns) / BLOCK);
  }
};

struct WeightProductKernels {
  size_t (*scratch)(const WeightProduct& p);
  void (*run)(const WeightProduct& p, int64_t task, char* memory);
};

namespace amx {
const WeightProductKernels& weight_product_kernels();
}

}  // namespace alternet
