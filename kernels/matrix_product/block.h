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

/// Tiles 4 and 5 <- part PART of the rows of A, tiles `stride` pairs apart; likewise 6 and 7 of the columns of B.
template <int PART>
ALTERNET_INLINE void load_left(const Pair* a, int64_t stride) {
  load_tile<4>(a + PART * TILE_PAIRS, TILE);
  load_tile<5>(a + stride + PART * TILE_PAIRS, TILE);
}

template <int PART>
ALTERNET_INLINE void load_right(const Pair* b, int64_t stride) {
  load_tile<6>(b + PART * TILE_PAIRS, TILE);
  load_tile<7>(b + stride + PART * TILE_PAIRS, TILE);
}

template <typename Beside>
ALTERNET_INLINE void multiply_tiles(Beside& beside, int turn) {
  multiply_tile<0, 4, 6>();
  multiply_tile<1, 4, 7>();
  multiply_tile<2, 5, 6>();
  multiply_tile<3, 5, 7>();
  beside.turn(turn);
}

/// One step of depth: the six products of parts that are not below 2^-24 of the whole, in an order that loads few tiles.
template <typename Beside>
ALTERNET_INLINE void multiply_step(const Pair* a, const Pair* b, int64_t stride, Beside& beside) {
  beside.begin();
  load_left<0>(a, stride);
  load_right<2>(b, stride);
  multiply_tiles(beside, 0);
  load_right<1>(b, stride);
  multiply_tiles(beside, 1);
  load_right<0>(b, stride);
  multiply_tiles(beside, 2);
  load_left<2>(a, stride);
  multiply_tiles(beside, 3);
  load_left<1>(a, stride);
  multiply_tiles(beside, 4);
  load_right<1>(b, stride);
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
