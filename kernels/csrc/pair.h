// Pairs of bfloat16, what the 16-bit instructions of a processor multiply. Included once per instruction set (see
// vector.h), which defines ALTERNET_PAIRS where it has such instructions.
#pragma once

#include <cstdint>
#include <type_traits>

#include "vector.h"

namespace alternet::ALTERNET_ISA {

/// Two bfloat16, the first in the low half.
enum class Pair : uint32_t {};

template <>
struct VectorTypes<Pair> {
  typedef uint32_t Vector __attribute__((vector_size(ALTERNET_VECTOR_BYTES)));
};

template <typename Factor>
constexpr bool IS_PAIR = std::is_same_v<Factor, Pair>;

/// The type in which products of `Factor` are summed.
template <typename Factor>
using SumOf = std::conditional_t<IS_PAIR<Factor>, float, Factor>;

/// What depths of pairs are padded to with zeros, and rows with anything: the size of a tile of AMX.
constexpr int64_t TILE = 16;

constexpr int64_t padded_to_tiles(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

/// How many factors a depth of n numbers is.
template <typename Factor>
constexpr int64_t factors(int64_t n) {
  return IS_PAIR<Factor> ? padded_to_tiles((n + 1) / 2) : n;
}

/// Which factor number k is in, where numbers are counted from a multiple of a vector.
template <typename Factor>
constexpr int64_t factor_at(int64_t k) {
  return IS_PAIR<Factor> ? k / 2 : k;
}

/// How many rows of sums have memory where n are wanted.
template <typename Factor>
constexpr int64_t rows_held(int64_t n) {
  return IS_PAIR<Factor> ? padded_to_tiles(n) : n;
}

}  // namespace alternet::ALTERNET_ISA
