// A task of a product of matrices: a part of the rows, columns and depth. Included once per instruction set that has
// tiles.
//
// As many columns of B, and of its depth, are packed as fit half of the second-level cache; BLOCK rows of A go by them
// all while the next are packed.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "csrc/carver.h"
#include "matrix_product/block.h"

namespace alternet::ALTERNET_ISA {

constexpr int64_t MAX_STEPS = 12;             // of depth at a time: 384
constexpr int64_t MAX_RIGHT_BYTES = 1 << 20;  // of packed columns

constexpr int64_t blocks_of(int64_t n) { return ceil_divide(n, BLOCK); }

/// How the depth and the columns of a task are cut so that the packed columns fit.
struct Cuts {
  int64_t deep, steps;   // parts of the depth, and how long the longest of any task is
  int64_t wide, blocks;  // parts of the columns, likewise

  explicit Cuts(const MatrixProduct& p) {
    const int64_t depth = ceil_divide(blocks_of(p.depth), p.depth_parts);
    deep = ceil_divide(depth, MAX_STEPS);
    steps = ceil_divide(depth, deep);
    const int64_t columns = ceil_divide(blocks_of(p.columns), p.column_parts);
    const int64_t most = MAX_RIGHT_BYTES / (2 * steps * STEP_PAIRS * static_cast<int64_t>(sizeof(Pair)));
    wide = ceil_divide(columns, most);
    blocks = ceil_divide(columns, wide);
  }
};

/// What one thread works on. On no memory it only counts.
struct ProductMemory {
  Pair *left, *next_left, *right;
  float *squares, *edge;
  size_t bytes;

  ProductMemory(char* memory, const Cuts& cuts) {
    Carver carver(memory);
    left = carver.take<Pair>(2 * cuts.steps * STEP_PAIRS);
    next_left = carver.take<Pair>(2 * cuts.steps * STEP_PAIRS);
    right = carver.take<Pair>(2 * cuts.blocks * cuts.steps * STEP_PAIRS);
    squares = carver.take<float>(2 * TILE * TILE);
    edge = carver.take<float>(BLOCK * BLOCK);
    bytes = carver.used();
  }
};

/// Packs tile rows or columns of a side, `steps` tiles each, as a block's products go on, a tile a step.
template <bool TRANSPOSED>
class SidePacker {
 public:
  SidePacker(const Side& side, int64_t first, Range depth, int64_t count, Pair* to, float* squares)
      : packer_(squares), side_(side), first_(first), depth_(depth.first), count_(count), steps_(blocks_of(depth.count)),
        to_(to), end_(count * steps_) {}

  bool done() const { return at_ == end_; }

  /// The next tile, in the order of memory.
  void begin() {
    const int64_t tile = side_.along == 1 ? at_ / steps_ : at_ % count_;
    const int64_t step = side_.along == 1 ? at_ % steps_ : at_ / count_;
    packer_.begin(side_.at(first_ + tile * TILE, depth_ + step * BLOCK), to_ + (tile * steps_ + step) * STEP_PAIRS);
    ++at_;
  }

  ALTERNET_INLINE void turn(int i) { packer_.turn(i); }

  /// Packs what is left; gives the largest magnitude of all.
  float finish() {
    while (!done()) {
      begin();
      ALTERNET_UNROLL
      for (int i = 0; i < TURNS; ++i) turn(i);
    }
    return packer_.largest();
  }

 private:
  TilePacker<TRANSPOSED> packer_;
  const Side& side_;
  int64_t first_, depth_, count_, steps_;
  Pair* to_;
  int64_t at_ = 0, end_;
};

/// The part of C of one task.
struct Output {
  float* data;
  int64_t stride, rows, columns;

  /// The block at (row, column), on memory of its own where it is not whole.
  template <typename Multiply>
  void with_block(int64_t row, int64_t column, bool accumulate, float* edge, const Multiply& multiply) const {
    float* const at = data + row * stride + column;
    const int64_t height = std::min(rows - row, BLOCK), width = std::min(columns - column, BLOCK);
    if (height == BLOCK && width == BLOCK) return multiply(at, stride, accumulate);
    multiply(edge, BLOCK, false);
    for (int64_t i = 0; i < height; ++i)
      for (int64_t j = 0; j < width; ++j)
        at[i * stride + j] = edge[i * BLOCK + j] + (accumulate ? at[i * stride + j] : 0.0f);
  }
};

/// Packs `tiles` tile columns of B.
inline float pack_right(const Side& b, int64_t first, Range depth, int64_t tiles, const ProductMemory& memory) {
  if (b.along == 1) return SidePacker<true>(b, first, depth, tiles, memory.right, memory.squares).finish();
  return SidePacker<false>(b, first, depth, tiles, memory.right, memory.squares).finish();
}

/// c (+)= the product of the depth's numbers in `depth`, all rows of A, the packed columns of B; gives A's largest.
template <bool LEFT_TRANSPOSED>
float multiply_panel(const Side& a, Range depth, const Output& c, Range columns, bool accumulate,
                     ProductMemory& memory) {
  using Packer = SidePacker<LEFT_TRANSPOSED>;
  const int64_t steps = blocks_of(depth.count);
  float largest = Packer(a, 0, depth, 2, memory.left, memory.squares).finish();
  Nothing nothing;
  for (int64_t row = 0; row < c.rows; row += BLOCK) {
    Packer next(a, row + BLOCK, depth, row + BLOCK < c.rows ? 2 : 0, memory.next_left, memory.squares);
    for (int64_t n = 0; n < columns.count; n += BLOCK) {
      const Pair* const b = memory.right + n / TILE * steps * STEP_PAIRS;
      c.with_block(row, columns.first + n, accumulate, memory.edge, [&](float* at, int64_t stride, bool add) {
        if (next.done()) multiply_block(steps, memory.left, b, at, stride, add, nothing);
        else multiply_block(steps, memory.left, b, at, stride, add, next);
      });
    }
    largest = std::max(largest, next.finish());
    std::swap(memory.left, memory.next_left);
  }
  return largest;
}

inline size_t scratch(const MatrixProduct& p) { return ProductMemory(nullptr, Cuts(p)).bytes; }

inline void run_task(const MatrixProduct& p, int64_t task, char* scratch_memory) {
  const ProductUnit<Pair> unit;
  const int64_t column_part = task % p.column_parts, row_part = task / p.column_parts % p.row_parts;
  const int64_t depth_part = task / p.column_parts / p.row_parts;
  const Range rows = part_of(p.rows, BLOCK, p.row_parts, row_part);
  const Range columns = part_of(p.columns, BLOCK, p.column_parts, column_part);
  const Range depth = part_of(p.depth, BLOCK, p.depth_parts, depth_part);
  const Side a{p.a.data + rows.first * p.a.row, p.a.row, p.a.column, rows.count, depth.first + depth.count};
  const Side b{p.b.data + columns.first * p.b.column, p.b.column, p.b.row, columns.count, a.depth};
  const Output c{p.c + (depth_part * p.rows + rows.first) * p.columns + columns.first, p.columns, rows.count,
                 columns.count};
  const Cuts cuts(p);
  ProductMemory memory(scratch_memory, cuts);
  const auto multiply = a.along == 1 ? multiply_panel<false> : multiply_panel<true>;
  float* const largest = p.largest + 2 * task;
  for (int64_t k = 0; k < cuts.deep; ++k) {
    Range now = part_of(depth.count, BLOCK, cuts.deep, k);
    now.first += depth.first;
    for (int64_t n = 0; n < cuts.wide; ++n) {
      const Range across = part_of(columns.count, BLOCK, cuts.wide, n);
      largest[1] = std::max(largest[1], pack_right(b, across.first, now, 2 * blocks_of(across.count), memory));
      largest[0] = std::max(largest[0], multiply(a, now, c, across, k > 0, memory));
    }
  }
}

const MatrixProductKernels& matrix_product_kernels() {
  static constexpr MatrixProductKernels kernels{scratch, run_task};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
