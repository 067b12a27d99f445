// One product of float32 matrices and how it is cut into tasks. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "csrc/range.h"

namespace alternet {

/// A float matrix; strides count numbers, and one of them is 1.
struct Factor32 {
  const float* data;
  int64_t row, column;
};

/// C [rows, columns] = A [rows, depth] B [depth, columns].
struct MatrixProduct {
  static constexpr int64_t BLOCK = 32;  // rows and columns of C that are computed together, numbers of a step of depth

  Factor32 a, b;
  int64_t rows, columns, depth;
  int64_t depth_parts = 1, row_parts = 1, column_parts = 1;
  float* c = nullptr;        // [depth_parts, rows, columns], each what a part of the depth adds
  float* largest = nullptr;  // [tasks, 2]: the largest magnitude in what a task reads of A and of B, NaN left out

  int64_t tasks() const { return depth_parts * row_parts * column_parts; }

  /// Parts of the depth depend on the sizes alone, so that the sums do. Where C is small beside the depth its tasks
  /// would all read most of A and B.
  void cut(int64_t threads) {
    while (depth_parts < 8 && depth >= 4 * depth_parts * std::max({rows, columns, BLOCK})) depth_parts *= 2;
    const int64_t wanted = ceil_divide(threads, depth_parts);
    const int64_t most_rows = ceil_divide(rows, BLOCK), most_columns = ceil_divide(columns, BLOCK);
    row_parts = std::min(wanted, most_rows);
    if (columns > rows) row_parts = std::min(most_rows, ceil_divide(wanted, most_columns));
    column_parts = std::min(ceil_divide(wanted, row_parts), most_columns);
  }
};

struct MatrixProductKernels {
  size_t (*scratch)(const MatrixProduct& p);
  void (*run)(const MatrixProduct& p, int64_t task, char* memory);
};

namespace amx {
const MatrixProductKernels& matrix_product_kernels();
}

}  // namespace alternet
