// Sweeps over the columns of a row, a vector at a time. Included once per instruction set (see vector.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "csrc/vector.h"

// A lambda that is inlined into both halves of a sweep: its accumulators would live in memory otherwise.
#define ALTERNET_BODY __attribute__((always_inline))

namespace alternet::ALTERNET_ISA {

/// A whole vector of columns.
template <typename Real>
struct WholeVector {
  int64_t column;

  ALTERNET_INLINE Vector<Real> load(const Real* row) const { return alternet::ALTERNET_ISA::load(row + column); }
  ALTERNET_INLINE void store(Real* row, Vector<Real> v) const { alternet::ALTERNET_ISA::store(row + column, v); }
  ALTERNET_INLINE void add(Real* row, Vector<Real> v) const { store(row, load(row) + v); }
  /// v where there are columns, `otherwise` elsewhere.
  ALTERNET_INLINE Vector<Real> only(Vector<Real> v, Real = 0) const { return v; }
};

/// The last columns, fewer than a vector. `load` gives 0 beyond them.
template <typename Real>
struct LastColumns {
  int64_t column, count;

  ALTERNET_INLINE Vector<Real> load(const Real* row) const {
    Vector<Real> v{};
    std::memcpy(&v, row + column, count * sizeof(Real));
    return v;
  }
  ALTERNET_INLINE void store(Real* row, Vector<Real> v) const { std::memcpy(row + column, &v, count * sizeof(Real)); }
  ALTERNET_INLINE void add(Real* row, Vector<Real> v) const { store(row, load(row) + v); }
  ALTERNET_INLINE Vector<Real> only(Vector<Real> v, Real otherwise = 0) const {
    return where<Real>(first_lanes<Real>(count), v, splat(otherwise));
  }
};

template <typename Real, typename Body>
ALTERNET_INLINE void sweep(int64_t columns, Body body) {
  int64_t j = 0;
  for (; j + LANES<Real> <= columns; j += LANES<Real>) body(WholeVector<Real>{j});
  if (j < columns) body(LastColumns<Real>{j, columns - j});
}

template <typename Real>
ALTERNET_INLINE Real sum(Vector<Real> v) {
  return reduce<Sum, Real>(v);
}

/// Vectors, or numbers, that are summed side by side.
template <typename X, int COUNT>
struct Terms {
  X term[COUNT];
};

/// The sums over the columns of what body(at) returns, Terms of vectors, in four strands: in one alone every addition
/// would wait for the one before. Where columns end within a vector, body returns zeros beyond them.
template <int COUNT, typename Real, typename Body>
ALTERNET_INLINE Terms<Real, COUNT> column_sums(int64_t columns, Body body) {
  constexpr int STRANDS = 4;
  Terms<Vector<Real>, COUNT> strands[STRANDS]{};
  const auto add = [&](int strand, auto at) ALTERNET_BODY {
    const Terms<Vector<Real>, COUNT> terms = body(at);
    ALTERNET_UNROLL
    for (int k = 0; k < COUNT; ++k) strands[strand].term[k] += terms.term[k];
  };
  int64_t j = 0;
  for (; j + STRANDS * LANES<Real> <= columns; j += STRANDS * LANES<Real>) {
    ALTERNET_UNROLL
    for (int s = 0; s < STRANDS; ++s) add(s, WholeVector<Real>{j + s * LANES<Real>});
  }
  for (; j + LANES<Real> <= columns; j += LANES<Real>) add(0, WholeVector<Real>{j});
  if (j < columns) add(1, LastColumns<Real>{j, columns - j});
  Terms<Real, COUNT> sums;
  ALTERNET_UNROLL
  for (int k = 0; k < COUNT; ++k)
    sums.term[k] = sum<Real>((strands[0].term[k] + strands[1].term[k]) + (strands[2].term[k] + strands[3].term[k]));
  return sums;
}

}  // namespace alternet::ALTERNET_ISA
