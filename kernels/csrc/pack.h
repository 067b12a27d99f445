// From tensors of any strides and type to packed tiles, and back. Included once per instruction set (see vector.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "operand.h"
#include "product.h"
#include "vector.h"

namespace alternet::ALTERNET_ISA {

/// Columns that a row buffer holds.
constexpr int64_t MAX_COLUMNS = 256;

ALTERNET_INLINE float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

ALTERNET_INLINE uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

/// IEEE binary16. Its exponent is rebiased by a product with 2^112, which makes subnormals right too.
ALTERNET_INLINE float widen_half(uint16_t half) {
  const uint32_t magnitude = (half & 0x7fffu) << 13;
  const float finite = from_bits(magnitude) * from_bits((127u + 112u) << 23);
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinity or NaN
  return from_bits(to_bits(finite) | special | (half & 0x8000u) << 16);
}

ALTERNET_INLINE float widen_bfloat(uint16_t bits) { return from_bits(static_cast<uint32_t>(bits) << 16); }

/// Round to nearest, ties to even. Where x is below the normal halves, adding 0.5 leaves the rounded bits at the end.
ALTERNET_INLINE uint16_t narrow_half(float x) {
  const uint32_t sign = to_bits(x) >> 16 & 0x8000u, magnitude = to_bits(x) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
  if (magnitude < 0x38800000u)
    return static_cast<uint16_t>(sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000u));
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

ALTERNET_INLINE uint16_t narrow_bfloat(float x) {
  const uint32_t bits = to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// to[0 .. n) = n numbers of `from`, `stride` elements apart, in the arithmetic type.
template <typename Real>
void widen(Real* to, const char* from, Element type, int64_t stride, int64_t n) {
  const auto* halves = reinterpret_cast<const uint16_t*>(from);
  if (type == Element::bfloat16 && stride == 1) {  // the compiler makes vectors of this one
    for (int64_t i = 0; i < n; ++i) to[i] = widen_bfloat(halves[i]);
    return;
  }
  const auto* reals = reinterpret_cast<const Real*>(from);
  if (type == Element::float16) {
    for (int64_t i = 0; i < n; ++i) to[i] = widen_half(halves[i * stride]);
  } else if (type == Element::bfloat16) {
    for (int64_t i = 0; i < n; ++i) to[i] = widen_bfloat(halves[i * stride]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = reals[i * stride];
  }
}

template <typename Real>
bool in_place(const Matrix& from) {
  return from.type == element_of<Real>() && from.column == 1;
}

/// Rows [first, first + n) of `from`, [n, columns]: where they lie if that serves, else converted into `scratch`.
template <typename Real>
Rows<Real> rows_of(const Matrix& from, int64_t first, int64_t n, int64_t columns, Real* scratch) {
  if (in_place<Real>(from)) return {reinterpret_cast<const Real*>(from.at(first)), from.row};
  for (int64_t i = 0; i < n; ++i) widen(scratch + i * columns, from.at(first + i), from.type, from.column, columns);
  return {scratch, columns};
}

/// Row i with zeros up to a whole number of vectors: where it lies if that serves, else in `buffer`.
template <typename Real>
const Real* padded_row(const Matrix& from, int64_t i, int64_t columns, Real* buffer) {
  const int64_t width = padded<Real>(columns);
  if (in_place<Real>(from) && width == columns) return reinterpret_cast<const Real*>(from.at(i));
  widen(buffer, from.at(i), from.type, from.column, columns);
  for (int64_t j = columns; j < width; ++j) buffer[j] = 0;
  return buffer;
}

/// The rows of `from` as a right-hand side where they lie, if that is as good as packed: whole vectors, rows end to
/// end, and not so long that the same columns of many rows share a few sets of a first-level cache of 64.
template <typename Real>
bool panels_in_place(const Matrix& from, int64_t columns) {
  return in_place<Real>(from) && from.row == columns && columns % LANES<Real> == 0 && columns * sizeof(Real) <= 256;
}

/// Rows of a group of LANES, zeros beyond `n`: pointers to where they lie or to `buffer`. Sends for the next group.
template <typename Real>
struct RowGroup {
  alignas(64) Real buffer[LANES<Real>][MAX_COLUMNS];
  const Real* row[LANES<Real>];

  void load(const Matrix& from, int64_t first, int64_t n, int64_t columns) {
    constexpr int64_t line = 64 / sizeof(Real);
    for (int64_t i = 0; i < LANES<Real>; ++i) {
      for (int64_t j = 0; j < columns; j += line) __builtin_prefetch(from.at(first + LANES<Real> + i, j));
      if (i >= n) std::memset(buffer[i], 0, sizeof buffer[i]);
      row[i] = i < n ? padded_row(from, first + i, columns, buffer[i]) : buffer[i];
    }
  }
};

/// Panels of rows [first, first + n) of `from`: k counts rows, columns lie across the lanes. A group of rows at a time:
/// the panels may all start in the same cache set.
template <typename Real>
Panels<Real> pack(const Matrix& from, int64_t first, int64_t n, int64_t columns, Real* to) {
  constexpr int64_t lanes = LANES<Real>;
  RowGroup<Real> group;
  for (int64_t k = 0; k < n; k += lanes) {
    const int64_t count = std::min(lanes, n - k);
    group.load(from, first + k, count, columns);
    for (int64_t j = 0; j < columns; j += lanes)
      for (int64_t i = 0; i < count; ++i) store(to + j * n + (k + i) * lanes, load(group.row[i] + j));
  }
  return packed(to, n);
}

/// tile[i][j] <- tile[j][i] for LANES x LANES numbers, in log2(LANES) rounds: each interleaves the vectors of the first
/// half with those of the second, which moves one bit of the row number into the lane number.
template <typename Real, int ROUND = LANES<Real> / 2>
ALTERNET_INLINE void transpose(Vector<Real> (&tile)[LANES<Real>]) {
  if constexpr (ROUND > 0) {
    constexpr int half = LANES<Real> / 2;
    constexpr auto lanes = std::make_integer_sequence<int, LANES<Real>>{};
    Vector<Real> mixed[LANES<Real>];
    ALTERNET_UNROLL
    for (int i = 0; i < half; ++i) {
      mixed[2 * i] = interleave<0>(tile[i], tile[i + half], lanes);
      mixed[2 * i + 1] = interleave<half>(tile[i], tile[i + half], lanes);
    }
    ALTERNET_UNROLL
    for (int i = 0; i < 2 * half; ++i) tile[i] = mixed[i];
    transpose<Real, ROUND / 2>(tile);
  }
}

/// Panels of the transpose of rows [0, n) of `from`: k counts columns, rows lie across the lanes, zeros beyond n.
template <typename Real>
Panels<Real> pack_transposed(const Matrix& from, int64_t n, int64_t columns, Real* to) {
  constexpr int lanes = LANES<Real>;
  RowGroup<Real> group;
  for (int64_t first = 0; first < n; first += lanes) {
    group.load(from, first, std::min<int64_t>(lanes, n - first), columns);
    Real* panel = to + first * columns;
    for (int64_t j = 0; j < columns; j += lanes) {
      Vector<Real> tile[lanes];
      ALTERNET_UNROLL
      for (int i = 0; i < lanes; ++i) tile[i] = load(group.row[i] + j);
      transpose<Real>(tile);
      ALTERNET_UNROLL
      for (int i = 0; i < lanes; ++i)
        if (j + i < columns) store(panel + (j + i) * lanes, tile[i]);
    }
  }
  return packed(to, columns);
}

/// to[j] = factor * from[j], or += that, in the element type of `to` (contiguous).
template <typename Real>
void write_row(const Real* from, int64_t n, Real factor, char* to, Element type, bool add) {
  auto* halves = reinterpret_cast<uint16_t*>(to);
  auto* reals = reinterpret_cast<Real*>(to);
  if (type == Element::float16) {
    for (int64_t j = 0; j < n; ++j) halves[j] = narrow_half(static_cast<float>(factor * from[j]));
  } else if (type == Element::bfloat16) {
    for (int64_t j = 0; j < n; ++j) halves[j] = narrow_bfloat(static_cast<float>(factor * from[j]));
  } else if (add) {
    for (int64_t j = 0; j < n; ++j) reals[j] += factor * from[j];
  } else {
    for (int64_t j = 0; j < n; ++j) reals[j] = factor * from[j];
  }
}

/// The same for rows [first, first + n) of `to`.
template <typename Real>
void write_rows(Rows<Real> from, int64_t n, int64_t columns, Real factor, const Matrix& to, int64_t first,
                bool add = false) {
  for (int64_t i = 0; i < n; ++i)
    write_row(from.data + i * from.stride, columns, factor, to.at(first + i), to.type, add);
}

}  // namespace alternet::ALTERNET_ISA
