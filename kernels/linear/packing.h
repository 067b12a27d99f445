// bfloat16 rows as tiles of pairs along the depth. Included once per instruction set that has tiles (see csrc/vector.h).
#pragma once

#include <algorithm>
#include <cstring>

#include "csrc/pack_pairs.h"
#include "csrc/sweep.h"
#include "linear/problem.h"

namespace alternet::ALTERNET_ISA {

constexpr int64_t BLOCK = WeightProduct::BLOCK, TILE_PAIRS = TILE * TILE;
static_assert(BLOCK == 2 * TILE);

/// Numbers of two rows, one of each a pair: those of even columns and of odd ones, which no lane has to move for.
struct PairsOfRows {
  Vector<Pair> even, odd;

  ALTERNET_INLINE PairsOfRows(const uint16_t* low, const uint16_t* high) {
    Vector<Pair> a, b;
    std::memcpy(&a, low, sizeof a);
    std::memcpy(&b, high, sizeof b);
    even = (a & 0xffffu) | b << 16;
    odd = a >> 16 | (b & 0xffff0000u);
  }
};

/// Rows 2 i and 2 i + 1 of BLOCK columns, zeros from row `there` on.
template <bool WHOLE>
ALTERNET_INLINE PairsOfRows pairs_of_rows(Rows16 from, int64_t i, int64_t there) {
  alignas(64) static constexpr uint16_t zeros[BLOCK] = {};
  const auto row = [&](int64_t r) ALTERNET_BODY { return WHOLE || r < there ? from.data + r * from.stride : zeros; };
  return {row(2 * i), row(2 * i + 1)};
}

/// A tile of a left-hand side, whose rows are the even or the odd columns of `from`.
template <bool WHOLE>
ALTERNET_INLINE void pack_left_tile(Rows16 from, int64_t odd, int64_t there, Pair* to) {
  Vector<float> tile[TILE];
  ALTERNET_UNROLL
  for (int i = 0; i < TILE; ++i) {
    const auto pairs = pairs_of_rows<WHOLE>(from, i, there);
    tile[i] = reinterpret_cast<Vector<float>>(odd ? pairs.odd : pairs.even);
  }
  store_transposed(tile, to, TILE);
}

/// A stretch of the depth of one factor, in steps of BLOCK.
struct Stretch {
  Rows16 from;
  int64_t depth;

  int64_t steps() const { return ceil_divide(depth, BLOCK); }
  Rows16 at(int64_t step, int64_t column) const {
    return {from.data + step * BLOCK * from.stride + column, from.stride};
  }
  int64_t there(int64_t step) const { return depth - step * BLOCK; }
};

/// Tiles of a right-hand side, packed in the order of memory.
inline Panels<Pair> pack_right(const Stretch& x, int64_t columns, Pair* to) {
  const Panels<Pair> panels = packed(to, x.steps() * TILE);
  for (int64_t step = 0; step < x.steps(); ++step)
    for (int64_t i = 0; i < TILE; ++i)
      for (int64_t j = 0; j < columns; j += BLOCK) {
        const auto pairs = pairs_of_rows<false>(x.at(step, j), i, x.there(step));
        Pair* const row = to + j / TILE * panels.panel + step * TILE_PAIRS + i * TILE;
        store(row, pairs.even);
        store(row + panels.panel, pairs.odd);
      }
  return panels;
}

/// Packs BLOCK columns of G, a tile every `period` turns, both of a step one behind the other.
class LeftPacker {
  static constexpr int64_t AHEAD = 2;  // steps, for which numbers are sent: 0.92 of the time where they are not cached

 public:
  LeftPacker(const Stretch& g, int64_t column, bool wanted, Pair* to, int64_t period = 1)
      : g_(g), column_(column), to_(to), end_(wanted ? 2 * g.steps() : 0), period_(period), wait_(period) {}

  ALTERNET_INLINE void turn() {
    if (at_ == end_ || --wait_ > 0) return;
    wait_ = period_;
    pack();
  }

  void finish() {
    while (at_ < end_) pack();
  }

 private:
  ALTERNET_INLINE void pack() {
    const int64_t step = at_ / 2, odd = at_ % 2;
    Pair* const tile = to_ + at_ * TILE_PAIRS;
    const Rows16 from = g_.at(step, column_);
    for (int64_t i = 0; i < TILE; ++i)
      __builtin_prefetch(from.data + (AHEAD * BLOCK + odd * TILE + i) * from.stride);
    if (g_.there(step) >= BLOCK) pack_left_tile<true>(from, odd, BLOCK, tile);
    else pack_left_tile<false>(from, odd, g_.there(step), tile);
    ++at_;
  }

  const Stretch& g_;
  int64_t column_;
  Pair* to_;
  int64_t at_ = 0, end_, period_, wait_;
};

}  // namespace alternet::ALTERNET_ISA
