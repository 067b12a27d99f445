// From bfloat16 tensors of any strides, and from tiles of float, to pairs as products read them. Included once per
// instruction set that has such products (see pair.h).
#pragma once

#include "pack.h"
#include "pair_product.h"

namespace alternet::ALTERNET_ISA {

/// Row i of `from`, `columns` bfloat16, and zeros up to `width`, one behind the other.
inline void copy_row(const Matrix& from, int64_t i, int64_t columns, uint16_t* to, int64_t width) {
  const auto* row = reinterpret_cast<const uint16_t*>(from.at(i));
  if (from.column == 1)
    std::memcpy(to, row, columns * sizeof *row);
  else
    for (int64_t j = 0; j < columns; ++j) to[j] = row[j * from.column];
  std::memset(to + columns, 0, (width - columns) * sizeof *to);
}

/// Rows [first, first + n) of `from`, [n, columns], as a left-hand side; `scratch` has room for whole tiles of them.
inline Rows<Pair> rows_of(const Matrix& from, int64_t first, int64_t n, int64_t columns, Pair* scratch) {
  const int64_t stride = factors<Pair>(columns);
  for (int64_t i = 0; i < n; ++i)
    copy_row(from, first + i, columns, reinterpret_cast<uint16_t*>(scratch + i * stride), 2 * stride);
  return {scratch, stride};
}

/// LANES numbers of two rows, one number of each a pair.
ALTERNET_INLINE Vector<Pair> paired(const uint16_t* low, const uint16_t* high) {
  typedef uint16_t Halves __attribute__((vector_size(ALTERNET_VECTOR_BYTES / 2)));
  Halves a, b;
  std::memcpy(&a, low, sizeof a);
  std::memcpy(&b, high, sizeof b);
  return __builtin_convertvector(a, Vector<Pair>) | __builtin_convertvector(b, Vector<Pair>) << 16;
}

/// Panels of rows [first, first + n) of `from`, [n, columns]: pairs are of rows one below the other, columns lie across
/// the lanes, zeros beyond n.
inline Panels<Pair> pack(const Matrix& from, int64_t first, int64_t n, int64_t columns, Pair* to) {
  constexpr int lanes = LANES<Pair>;
  alignas(64) uint16_t rows[2][MAX_COLUMNS];
  const int64_t depth = factors<Pair>(n), width = padded<Pair>(columns);
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t i = 0; i < 2; ++i) {
      const bool inside = 2 * k + i < n;
      copy_row(from, inside ? first + 2 * k + i : first, inside ? columns : 0, rows[i], width);
    }
    for (int64_t j = 0; j < width; j += lanes) store(to + j * depth + k * lanes, paired(rows[0] + j, rows[1] + j));
  }
  return packed(to, depth);
}

/// to[i][k] <- pairs (k, i) of LANES x LANES pairs, rows `stride` apart.
ALTERNET_INLINE void store_transposed(Vector<float> (&tile)[LANES<float>], Pair* to, int64_t stride) {
  transpose<float>(tile);
  ALTERNET_UNROLL
  for (int i = 0; i < LANES<float>; ++i) std::memcpy(to + i * stride, &tile[i], sizeof tile[i]);
}

/// Panels of the transpose of rows [0, n) of `from`: pairs are of columns side by side, rows lie across the lanes,
/// zeros beyond n.
inline Panels<Pair> pack_transposed(const Matrix& from, int64_t n, int64_t columns, Pair* to) {
  constexpr int lanes = LANES<Pair>;
  alignas(64) Pair rows[lanes][MAX_COLUMNS / 2];
  const int64_t depth = factors<Pair>(columns);
  for (int64_t first = 0; first < n; first += lanes) {
    for (int64_t i = 0; i < lanes; ++i) {
      const bool inside = first + i < n;
      copy_row(from, inside ? first + i : 0, inside ? columns : 0, reinterpret_cast<uint16_t*>(rows[i]), 2 * depth);
    }
    for (int64_t k = 0; k < depth; k += lanes) {
      Vector<float> tile[lanes];
      ALTERNET_UNROLL
      for (int i = 0; i < lanes; ++i) std::memcpy(&tile[i], rows[i] + k, sizeof tile[i]);
      store_transposed(tile, to + first * depth + k * lanes, lanes);
    }
  }
  return packed(to, depth);
}

/// A float matrix [n, columns], rows `stride` apart and zero up to a whole vector, as a left-hand side.
inline void round_rows(const float* from, int64_t stride, int64_t n, int64_t columns, Pair* to) {
  constexpr int lanes = LANES<float>;
  const int64_t depth = factors<Pair>(columns);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < 2 * depth; j += 2 * lanes) {
      const float* at = from + i * stride + j;
      const Vector<float> second = j + lanes < columns ? load(at + lanes) : Vector<float>{};
      const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(load(at)));
      std::memcpy(to + i * depth + j / 2, &both, sizeof both);
    }
}

/// Two vectors rounded to bfloat16, a number of each a pair.
ALTERNET_INLINE Vector<float> rounded_pairs(Vector<float> low, Vector<float> high) {
  constexpr short h = 16;  // where the high halves are in what the conversion returns
  const __m512i order = _mm512_set_epi16(
      h + 15, 15, h + 14, 14, h + 13, 13, h + 12, 12, h + 11, 11, h + 10, 10, h + 9, 9, h + 8, 8,
      h + 7, 7, h + 6, 6, h + 5, 5, h + 4, 4, h + 3, 3, h + 2, 2, h + 1, 1, h, 0);
  const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
  return reinterpret_cast<Vector<float>>(_mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
}

/// The transpose of a float matrix [n, columns], rows `stride` apart, as a left-hand side.
inline void round_columns(const float* from, int64_t stride, int64_t n, int64_t columns, Pair* to) {
  constexpr int lanes = LANES<float>;
  const int64_t depth = factors<Pair>(n);
  for (int64_t j = 0; j < columns; j += lanes)
    for (int64_t k = 0; k < depth; k += lanes) {
      Vector<float> tile[lanes];
      for (int i = 0; i < lanes; ++i) {
        const int64_t row = 2 * (k + i);
        const Vector<float> low = row < n ? load(from + row * stride + j) : Vector<float>{};
        const Vector<float> high = row + 1 < n ? load(from + (row + 1) * stride + j) : Vector<float>{};
        tile[i] = rounded_pairs(low, high);
      }
      store_transposed(tile, to + j * depth + k, depth);
    }
}

}  // namespace alternet::ALTERNET_ISA
