// float as the sum of three bfloat16, in tiles of pairs for the products of them. Included once per instruction set that
// has tiles (see vector.h).
//
// A pair is of numbers 16 apart along the depth, those of one lane of two vectors: no lanes need to be moved.
#pragma once

#include "csrc/pack.h"
#include "csrc/pair.h"

namespace alternet::ALTERNET_ISA {

constexpr int PARTS = 3;
constexpr int64_t TILE_PAIRS = TILE * TILE, STEP_PAIRS = PARTS * TILE_PAIRS;  // of one part, of all

/// The nearest bfloat16, halves away from zero, as a float.
ALTERNET_INLINE Vector<float> leading(Vector<float> x) {
  return reinterpret_cast<Vector<float>>((reinterpret_cast<Vector<Pair>>(x) + 0x8000u) & 0xffff0000u);
}

/// Pairs of numbers that are bfloat16, or subnormal: what these have in the lower half, below 2^-133, is cut off.
ALTERNET_INLINE Vector<Pair> paired(Vector<float> low, Vector<float> high) {
  return reinterpret_cast<Vector<Pair>>(low) >> 16 | (reinterpret_cast<Vector<Pair>>(high) & 0xffff0000u);
}

/// The larger magnitude; of a number and NaN the number.
ALTERNET_INLINE Vector<float> larger(Vector<float> a, Vector<float> b) {
  constexpr int MAGNITUDE = 0b1011;
  return reinterpret_cast<Vector<float>>(
      _mm512_range_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), MAGNITUDE));
}

/// Row i of the tiles of all parts. What is left after two parts has eight bits and is the third, exactly where it is
/// not subnormal: of numbers below 2^-102 it may be, and then has bits where its neighbour's go.
ALTERNET_INLINE void store_parts(Vector<float> low, Vector<float> high, Pair* tiles, int64_t i) {
  ALTERNET_UNROLL
  for (int part = 0; part < PARTS; ++part) {
    const Vector<float> first = part < PARTS - 1 ? leading(low) : low, second = part < PARTS - 1 ? leading(high) : high;
    store(tiles + part * TILE_PAIRS + i * TILE, paired(first, second));
    low -= first, high -= second;
  }
}

/// Two squares of TILE x TILE floats whose numbers make the pairs of a tile, some of their rows and lanes beyond the
/// matrix and zero.
struct Squares {
  const float* data[2];
  int64_t stride;
  int64_t rows[2], lanes[2];

  bool whole() const { return std::min({rows[0], rows[1], lanes[0], lanes[1]}) >= TILE; }

  /// Of a whole square.
  Vector<float> row(int square, int64_t i) const { return load(data[square] + i * stride); }

  Vector<float> row_if_there(int square, int64_t i) const {
    Vector<float> v{};
    if (i < rows[square] && lanes[square] > 0)
      std::memcpy(&v, data[square] + i * stride, std::min(lanes[square], TILE) * sizeof(float));
    return v;
  }
};

/// A factor as the tiles see it: `across` counts rows of A or columns of B, `along` the depth.
struct Side {
  const float* data;
  int64_t across, along;  // strides
  int64_t count, depth;   // sizes

  /// The squares of a tile: TILE across from `first`, two times as many along the depth from k.
  Squares at(int64_t first, int64_t k) const {
    Squares s;
    const float* const corner = data + first * across + k * along;
    s.data[0] = corner, s.data[1] = corner + TILE * along;
    s.stride = along == 1 ? across : along;
    for (int square = 0; square < 2; ++square) {
      const int64_t there = std::max<int64_t>(count - first, 0), deep = std::max<int64_t>(depth - k - square * TILE, 0);
      s.rows[square] = along == 1 ? there : deep;
      s.lanes[square] = along == 1 ? deep : there;
    }
    return s;
  }
};

/// Tiles are packed in six turns, between products, which the processor computes meanwhile.
constexpr int TURNS = 6;

/// One tile of each part. TRANSPOSED: rows in memory are columns of the tile.
template <bool TRANSPOSED>
class TilePacker {
 public:
  explicit TilePacker(float* scratch) : scratch_(scratch) {}  // two squares, for transposing

  /// Of all numbers packed so far that are numbers.
  float largest() const { return reduce<Max, float>(largest_); }

  void begin(const Squares& from, Pair* to) {
    from_ = from, to_ = to;
    whole_ = from.whole();
  }

  ALTERNET_INLINE void turn(int i) {
    if constexpr (TRANSPOSED) {
      if (i < 2) return transposed(i);
      const Squares square{{scratch_, scratch_ + TILE * TILE}, TILE, {}, {}};
      rows<true>(square, 4 * (i - 2), 4 * (i - 1));
    } else if (whole_) {
      rows<true>(from_, 3 * i, std::min<int64_t>(3 * i + 3, TILE));
    } else {
      rows<false>(from_, 3 * i, std::min<int64_t>(3 * i + 3, TILE));
    }
  }

 private:
  template <bool WHOLE>
  ALTERNET_INLINE void rows(const Squares& from, int64_t first, int64_t end) {
    ALTERNET_UNROLL
    for (int64_t i = first; i < end; ++i)
      if constexpr (WHOLE) store_row(from.row(0, i), from.row(1, i), i);
      else store_row(from.row_if_there(0, i), from.row_if_there(1, i), i);
  }

  ALTERNET_INLINE void store_row(Vector<float> low, Vector<float> high, int64_t i) {
    largest_ = larger(largest_, larger(low, high));
    store_parts(low, high, to_, i);
  }

  ALTERNET_INLINE void transposed(int square) {
    Vector<float> tile[TILE];
    if (whole_) {
      ALTERNET_UNROLL
      for (int i = 0; i < TILE; ++i) tile[i] = from_.row(square, i);
    } else {
      for (int i = 0; i < TILE; ++i) tile[i] = from_.row_if_there(square, i);
    }
    transpose<float>(tile);
    ALTERNET_UNROLL
    for (int i = 0; i < TILE; ++i) store(scratch_ + (square * TILE + i) * TILE, tile[i]);
  }

  float* scratch_;
  Squares from_;
  Pair* to_;
  bool whole_;
  Vector<float> largest_{};
};

}  // namespace alternet::ALTERNET_ISA
