// C (+)= A B for one block of 2 x 2 tiles, from packed parts. Included once per instruction set that has tiles.
#pragma once

#include "csrc/pair_product.h"
#include "matrix_product/parts.h"
#include "matrix_product/problem.h"

namespace alternet::ALTERNET_ISA {

constexpr int64_t BLOCK = MatrixProduct::BLOCK;
static_assert(BLOCK == 2 * TILE);

/// What is done beside the products where nothing is to be packed: an addition. A core that has added nothing for a
/// microsecond takes 0.25 more to store a tile (Sapphire Rapids), as long as a fifth of a block of depth 192.
struct Nothing {
  void begin() {}
  ALTERNET_INLINE void turn(int i) {
    if (i == 0) asm volatile("vaddss %%xmm0, %%xmm0, %%xmm0" ::: "xmm0");
  }
};

constexpr int LEFT = 4, RIGHT = 6;  // tiles of A, rows one below the other, and of B, columns side by side

/// Tiles FIRST and the next <- part PART of what lies `stride` pairs apart.
template <int FIRST, int PART>
ALTERNET_INLINE void load_part(const Pair* from, int64_t stride) {
  load_tile<FIRST>(from + PART * TILE_PAIRS, TILE);
  load_tile<FIRST + 1>(from + stride + PART * TILE_PAIRS, TILE);
}

template <typename Beside>
ALTERNET_INLINE void multiply_tiles(Beside& beside, int turn) {
  multiply_tile<0, LEFT, RIGHT>();
  multiply_tile<1, LEFT, RIGHT + 1>();
  multiply_tile<2, LEFT + 1, RIGHT>();
  multiply_tile<3, LEFT + 1, RIGHT + 1>();
  beside.turn(turn);
}

/// One step of depth: the six products of parts that are not below 2^-24 of the whole, in an order that loads few tiles.
template <typename Beside>
ALTERNET_INLINE void multiply_step(const Pair* a, const Pair* b, int64_t stride, Beside& beside) {
  beside.begin();
  load_part<LEFT, 0>(a, stride);
  load_part<RIGHT, 2>(b, stride);
  multiply_tiles(beside, 0);
  load_part<RIGHT, 1>(b, stride);
  multiply_tiles(beside, 1);
  load_part<RIGHT, 0>(b, stride);
  multiply_tiles(beside, 2);
  load_part<LEFT, 2>(a, stride);
  multiply_tiles(beside, 3);
  load_part<LEFT, 1>(a, stride);
  multiply_tiles(beside, 4);
  load_part<RIGHT, 1>(b, stride);
  multiply_tiles(beside, 5);
}

/// c [BLOCK, BLOCK] (+)= two rows of tiles of A times two columns of tiles of B, `steps` tiles each.
template <typename Beside>
void multiply_block(int64_t steps, const Pair* a, const Pair* b, float* c, int64_t c_stride, bool accumulate,
                    Beside& beside) {
  begin_tiles<2, 2>(c, c_stride, accumulate);
  for (int64_t step = 0; step < steps; ++step)
    multiply_step(a + step * STEP_PAIRS, b + step * STEP_PAIRS, steps * STEP_PAIRS, beside);
  end_tiles<2, 2>(c, c_stride);
}

}  // namespace alternet::ALTERNET_ISA
