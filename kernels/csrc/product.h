// Small matrix products on packed tiles: C (+)= sum of A_i B_i. Included once per instruction set (see vector.h).
//
// What is multiplied, Factor, is float or double, whose sums are of the same type, or Pair: two bfloat16 that follow
// one another along the depth, whose products are summed in float. A depth counts factors.
//
// A block of ROWS x STRIP vectors of C stays in registers while k runs over the depth: each step loads STRIP vectors of
// B, broadcasts ROWS numbers of A and does ROWS * STRIP fused multiply-adds. B comes in panels one vector wide, so
// that those loads walk through memory; A is read in place.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "pair.h"
#include "vector.h"

namespace alternet::ALTERNET_ISA {

/// sum += factor * column, lane by lane.
template <typename Factor>
ALTERNET_INLINE void add_product(Vector<SumOf<Factor>>& sum, Factor factor, Vector<Factor> column) {
  sum += factor * column;
}

/// What a task needs round its products of Factor: nothing.
template <typename Factor>
class ProductUnit {};

/// A right-hand side, read a vector of columns at a time: number (k, n) is at data[n / LANES * panel + k * row + n %
/// LANES]. Packed, a panel of LANES columns is one stretch of memory; a matrix in place has row = its stride, panel =
/// LANES.
template <typename Factor>
struct Panels {
  const Factor* data;
  int64_t panel, row;

  /// The same columns from row k on.
  Panels below(int64_t k) const { return {data + k * row, panel, row}; }
  /// The columns from n on, a multiple of LANES.
  Panels right(int64_t n) const { return {data + n / LANES<Factor> * panel, panel, row}; }
};

template <typename Factor>
Panels<Factor> packed(const Factor* data, int64_t depth) {
  return {data, depth * LANES<Factor>, LANES<Factor>};
}

/// Numbers read in place, rows `stride` apart.
template <typename Factor>
struct Rows {
  const Factor* data;
  int64_t stride;
};

/// One product A B. A is [rows, depth], or [depth, rows] in a product of transposes.
template <typename Factor>
struct Term {
  Rows<Factor> a;
  Panels<Factor> b;
};

/// Accumulators, vectors of B and one number of A fit the registers; at least eight accumulators hide the latency. Loads
/// cost time beside products: on one core of a Sapphire Rapids, numbers in the first-level cache, blocks of 11 x 2 reach
/// 165 GFLOP/s, of 8 x 3 and 6 x 4 175 to 180, of 5 x 5 and 4 x 6 195.
constexpr bool MANY_REGISTERS = ALTERNET_VECTOR_REGISTERS >= 32;
constexpr int MAX_STRIP = MANY_REGISTERS ? 6 : 3;
constexpr int max_rows(int strip) {
  constexpr int many[] = {12, 9, 8, 6, 5, 4}, few[] = {8, 6, 4};
  return MANY_REGISTERS ? many[strip - 1] : few[strip - 1];
}

/// The block at rows [row, row + ROWS) and vector columns [panel, panel + STRIP) of C, from at least one term of at
/// least one step: a path for none would cost GCC a copy of the sums in memory.
template <typename Factor, bool TRANSPOSED, int STRIP, int ROWS>
ALTERNET_INLINE void multiply_block(int64_t depth, const Term<Factor>* terms, int count, int64_t row, int64_t panel,
                                    SumOf<Factor>* c, int64_t c_stride, bool accumulate) {
  using Real = SumOf<Factor>;
  constexpr int lanes = LANES<Real>;
  Vector<Real> sum[ROWS][STRIP];
  ALTERNET_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ALTERNET_UNROLL
    for (int v = 0; v < STRIP; ++v) sum[r][v] = accumulate ? load(c + r * c_stride + v * lanes) : Vector<Real>{};
  }
  int term = 0;
  do {
    const int64_t a_stride = terms[term].a.stride, b_panel = terms[term].b.panel, b_row = terms[term].b.row;
    const Factor* a = terms[term].a.data + (TRANSPOSED ? row : row * a_stride);
    const Factor* b = terms[term].b.data + panel * b_panel;
    int64_t k = 0;
    ALTERNET_KEEP
    do {
      Vector<Factor> columns[STRIP];
      ALTERNET_UNROLL
      for (int v = 0; v < STRIP; ++v) columns[v] = load(b + v * b_panel + k * b_row);
      ALTERNET_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const Factor factor = TRANSPOSED ? a[k * a_stride + r] : a[r * a_stride + k];
        ALTERNET_UNROLL
        for (int v = 0; v < STRIP; ++v) add_product<Factor>(sum[r][v], factor, columns[v]);
      }
    } while (++k < depth);
  } while (++term < count);
  ALTERNET_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    ALTERNET_UNROLL
    for (int v = 0; v < STRIP; ++v) store(c + r * c_stride + v * lanes, sum[r][v]);
  }
}

/// The blocks of ROWS rows one below the other that fill rows [first, end).
template <typename Factor, bool TRANSPOSED, int STRIP, int ROWS>
void multiply_blocks(int64_t first, int64_t end, int64_t depth, const Term<Factor>* terms, int count, int64_t panel,
                     SumOf<Factor>* c, int64_t c_stride, bool accumulate) {
  for (int64_t row = first; row < end; row += ROWS)
    multiply_block<Factor, TRANSPOSED, STRIP, ROWS>(depth, terms, count, row, panel,
                                                    c + row * c_stride + panel * LANES<Factor>, c_stride, accumulate);
}

template <typename Factor>
using Blocks = void (*)(int64_t, int64_t, int64_t, const Term<Factor>*, int, int64_t, SumOf<Factor>*, int64_t, bool);

template <typename Factor, bool TRANSPOSED, int STRIP, int... R>
constexpr auto block_table(std::integer_sequence<int, R...>) {
  return std::array<Blocks<Factor>, sizeof...(R)>{&multiply_blocks<Factor, TRANSPOSED, STRIP, R + 1>...};
}

/// STRIP vector columns of C, the rows shared out evenly: 49 rows are four blocks of 6 and five of 5, not eight of 6
/// and a slow one of 1.
template <typename Factor, bool TRANSPOSED, int STRIP>
void multiply_strip(int64_t rows, int64_t depth, const Term<Factor>* terms, int count, int64_t panel, SumOf<Factor>* c,
                    int64_t c_stride, bool accumulate) {
  constexpr int most = max_rows(STRIP);
  static constexpr auto table = block_table<Factor, TRANSPOSED, STRIP>(std::make_integer_sequence<int, most>{});
  const int64_t blocks = (rows + most - 1) / most;
  const int64_t size = (rows + blocks - 1) / blocks;          // of the first ones
  const int64_t split = (rows - blocks * (size - 1)) * size;  // where the others begin, one row shorter
  table[size - 1](0, split, depth, terms, count, panel, c, c_stride, accumulate);
  if (split < rows) table[size - 2](split, rows, depth, terms, count, panel, c, c_stride, accumulate);
}

template <typename Factor>
using Strip = void (*)(int64_t, int64_t, const Term<Factor>*, int, int64_t, SumOf<Factor>*, int64_t, bool);

template <typename Factor, bool TRANSPOSED, int... S>
constexpr auto strip_table(std::integer_sequence<int, S...>) {
  return std::array<Strip<Factor>, sizeof...(S)>{&multiply_strip<Factor, TRANSPOSED, S + 1>...};
}

/// c[rows, columns] (+)= sum over terms of A B, or of transpose(A) B. Whole vectors of c are written: its rows have
/// room for padded(columns). The columns of the terms' panels beyond `columns` end up there.
template <typename Factor, bool TRANSPOSED = false>
void multiply(int64_t rows, int64_t columns, int64_t depth, const Term<Factor>* terms, int count, SumOf<Factor>* c,
              int64_t c_stride, bool accumulate) {
  const int64_t width = padded<Factor>(columns);
  if (count == 0) {
    for (int64_t r = 0; r < rows && !accumulate; ++r) std::fill_n(c + r * c_stride, width, SumOf<Factor>(0));
    return;
  }
  // The panels shared out evenly over strips: the wider one is, the fewer numbers are loaded for as many products.
  static constexpr auto strips = strip_table<Factor, TRANSPOSED>(std::make_integer_sequence<int, MAX_STRIP>{});
  int64_t left = width / LANES<Factor>;
  for (int64_t panel = 0, count_left = (left + MAX_STRIP - 1) / MAX_STRIP; left > 0; --count_left) {
    const int64_t strip = (left + count_left - 1) / count_left;
    strips[strip - 1](rows, depth, terms, count, panel, c, c_stride, accumulate);
    panel += strip, left -= strip;
  }
}

}  // namespace alternet::ALTERNET_ISA
