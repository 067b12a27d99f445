// One product of float32 matrices and how it is cut into tasks. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstdint>

namespace alternet {

/// A float matrix; strides count numbers, and one of them is 1.
struct Factor32 {
  const float* data;
  int64_t row, column;
};

/// Numbers [first, first + count) of an axis.
struct Range {
  int64_t first, count;
};

/// Part `index` of `parts` of an axis, cut evenly between whole units.
inline Range part_of(int64_t size, int64_t unit, int64_t parts, int64_t index) {
  const int64_t units = (size + unit - 1) / unit;
  const int64_t first = units * index / parts * unit, end = units * (index + 1) / parts * unit;
  return {std::min(first, size), std::min(end, size) - std::min(first, size)};
}

/// C [rows, columns] = A [rows, depth] B [depth, columns].
struct MatrixProduct {
  static constexpr int64_t BLOCK = 32;  // rows and columns of C that are computed together, numbers of a step of depth

  Factor32 a, b;
  int64_t rows, columns, depth;
  int64_t depth_parts = 1, row_parts = 1, column_parts = 1;
  float* c = nullptr;         // [depth_parts, rows, columns], each what a part of the depth adds
  float* largest = nullptr;  // [tasks, 2]: the largest magnitude in what a task reads of A and of B, NaN left out

  int64_t tasks() const { return depth_parts * row_parts * column_parts; }

  /// Parts of the depth depend on the sizes alone, so that the sums do. Where C is small beside the depth its tasks
  /// would all read most of A and B.
  void cut(int64_t threads) {
    while (depth_parts < 8 && depth >= 4 * depth_parts * std::max({rows, columns, BLOCK})) depth_parts *= 2;
    const int64_t wanted = (threads + depth_parts - 1) / depth_parts;
    const int64_t most_rows = (rows + BLOCK - 1) / BLOCK, most_columns = (columns + BLOCK - 1) / BLOCK;
    row_parts = std::min(wanted, most_rows);
    if (columns > rows) row_parts = std::min(most_rows, (wanted + most_columns - 1) / most_columns);
    column_parts = std::min((wanted + row_parts - 1) / row_parts, most_columns);
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
