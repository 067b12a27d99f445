// A task of the gradient of a weight in the tiles of AMX: a part of the rows and columns, the whole depth. Included once
// per instruction set that has tiles (see csrc/vector.h).
//
// STEPS of X are packed for all columns of a panel, then BLOCK columns of G after BLOCK others, a tile now and then while
// the tiles of those before are multiplied: that a column of G becomes a row of a tile takes the vector units as long.
#pragma once

#include <utility>

#include "csrc/carver.h"
#include "linear/packing.h"

namespace alternet::ALTERNET_ISA {

constexpr int64_t STEPS = 12;   // of BLOCK along the depth; 6 to 24 take the same time within a twentieth
constexpr int64_t PANEL = 768;  // columns whose STEPS fit half of a second-level cache

/// c [BLOCK, BLOCK] (+)= two rows of tiles times two columns of tiles.
inline void multiply_block(int64_t steps, const Pair* a, Panels<Pair> b, float* c, int64_t stride, bool accumulate,
                           LeftPacker& beside) {
  begin_tiles<2, 2>(c, stride, accumulate);
  for (int64_t step = 0; step < steps; ++step) {
    step_tiles<2, 2>({a + 2 * step * TILE_PAIRS, TILE}, b.below(step * TILE));
    beside.turn();
  }
  end_tiles<2, 2>(c, stride);
}

/// What one thread works on. On no memory it only counts.
struct WeightMemory {
  Pair *left, *next_left, *right;
  float* sums;
  size_t bytes;

  WeightMemory(char* memory, const WeightProduct& p) {
    Carver carver(memory);
    const int64_t width = std::min(PANEL, ceil_divide(p.columns / BLOCK, p.column_parts) * BLOCK);
    left = carver.take<Pair>(2 * STEPS * TILE_PAIRS);
    next_left = carver.take<Pair>(2 * STEPS * TILE_PAIRS);
    right = carver.take<Pair>(width / TILE * STEPS * TILE_PAIRS);
    sums = carver.take<float>(ceil_divide(p.rows / BLOCK, p.row_parts) * BLOCK * width);
    bytes = carver.used();
  }
};

/// memory.sums (+)= Gᵀ X for all rows of a task.
inline void multiply_stretch(const Stretch& g, Range rows, Panels<Pair> x, int64_t columns, bool accumulate,
                             WeightMemory& memory) {
  const int64_t steps = g.steps(), period = std::max<int64_t>(1, columns / BLOCK / 2);
  LeftPacker(g, rows.first, true, memory.left).finish();
  for (int64_t row = 0; row < rows.count; row += BLOCK) {
    LeftPacker next(g, rows.first + row + BLOCK, row + BLOCK < rows.count, memory.next_left, period);
    for (int64_t j = 0; j < columns; j += BLOCK)
      multiply_block(steps, memory.left, x.right(j), memory.sums + row * columns + j, columns, accumulate, next);
    next.finish();
    std::swap(memory.left, memory.next_left);
  }
}

/// Rows and columns as they were: of every BLOCK the even ones lie before the odd ones.
inline void round_sums(const float* sums, int64_t rows, int64_t columns, uint16_t* to, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t half = i % BLOCK / TILE, row = i - i % BLOCK + 2 * (i % TILE) + half;
    for (int64_t j = 0; j < columns; j += BLOCK) {
      const float* const from = sums + i * columns + j;
      const auto pairs = rounded_pairs(load(from), load(from + TILE));
      std::memcpy(to + row * stride + j, &pairs, sizeof pairs);
    }
  }
}

inline size_t weight_scratch(const WeightProduct& p) { return WeightMemory(nullptr, p).bytes; }

inline void run_weight_task(const WeightProduct& p, int64_t task, char* scratch) {
  const ProductUnit<Pair> unit;
  WeightMemory memory(scratch, p);
  const Range rows = part_of(p.rows, BLOCK, p.row_parts, task / p.column_parts);
  const Range columns = part_of(p.columns, BLOCK, p.column_parts, task % p.column_parts);
  for (int64_t j = columns.first; j < columns.end(); j += PANEL) {
    const int64_t width = std::min(PANEL, columns.end() - j);
    for (int term = 0; term < p.count; ++term)
      for (int64_t k = 0; k < p.depth; k += STEPS * BLOCK) {
        const auto stretch = [&](Rows16 of, int64_t column) {
          const Rows16 from{of.data + k * of.stride + column, of.stride};
          return Stretch{from, std::min(STEPS * BLOCK, p.depth - k)};
        };
        const Panels<Pair> x = pack_right(stretch(p.terms[term].x, j), width, memory.right);
        multiply_stretch(stretch(p.terms[term].g, 0), rows, x, width, term + k > 0, memory);
      }
    round_sums(memory.sums, rows.count, width, p.c + rows.first * p.columns + j, p.columns);
  }
}

const WeightProductKernels& weight_product_kernels() {
  static constexpr WeightProductKernels kernels{weight_scratch, run_weight_task};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
