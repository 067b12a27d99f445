// What the four maps share: scratch memory, tiles of queries and keys, sweeps over a row of scores.
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "attention/problem.h"
#include "csrc/carver.h"
#include "csrc/exponential.h"
#include "csrc/pack.h"
#include "csrc/product.h"
#if defined(ALTERNET_PAIRS)
#include "csrc/pack_pairs.h"
#endif

namespace alternet::ALTERNET_ISA {

/// From the first to the last key that some of `queries` sees; the first is rounded down to whole vectors, and to whole
/// tiles of pairs.
inline Range seen(const Problem& p, Range queries) {
  int64_t first = 0, end = p.causal ? std::min(p.keys, queries.end()) : p.keys;
  if (p.grid.local) {
    const int64_t top = queries.first / p.grid.width - p.grid.up;
    const int64_t bottom = (queries.end() - 1) / p.grid.width + p.grid.down;
    first = std::max<int64_t>(top, 0) * p.grid.width / 32 * 32;
    end = std::min(end, (bottom + 1) * p.grid.width);
  }
  return {first, end - first};
}

/// Whether `keys` is not the first tile of keys that `queries` sweep over.
inline bool continues(const Problem& p, Range queries, Range keys) { return keys.first > seen(p, queries).first; }

/// How many of `keys`, counted from the first, query i sees.
inline int64_t visible(const Problem& p, int64_t i, Range keys) {
  return p.causal ? std::clamp<int64_t>(i + 1 - keys.first, 0, keys.count) : keys.count;
}

/// Element i of a column vector, of the arithmetic type.
template <typename Real>
Real& at(const Matrix& column, int64_t i) {
  return *reinterpret_cast<Real*>(column.at(i));
}

/// Numbers between the rows of a score tile. One more vector than a row needs keeps rows out of one another's cache
/// sets.
template <typename Real>
int64_t score_stride(const Problem& p) {
  return padded<Real>(std::min(p.plan.tile_keys, p.keys)) + LANES<Real>;
}

/// Calls visit(tile) for each tile of `whole`. What `visit` does with vectors it does in functions that it calls:
/// a lambda may not inherit the instruction set.
template <typename Visit>
inline void for_tiles(Range whole, int64_t size, const Visit& visit) {
  for (int64_t first = whole.first; first < whole.end(); first += size)
    visit(Range{first, std::min(size, whole.end() - first)});
}

/// Runs a sweep over the first `visible` columns of a row of scores, a vector at a time, and clears the others up to
/// `count`. A sweep has `step<MASKED>(j, lanes)`, which must not let columns from j + lanes on count when MASKED, and
/// `clear(j)`.
template <typename Real, typename Sweep>
ALTERNET_INLINE void sweep_row(Sweep& sweep, int64_t visible, int64_t count) {
  int64_t j = 0;
  for (; j + LANES<Real> <= visible; j += LANES<Real>) sweep.template step<false>(j, LANES<Real>);
  if (j < visible) {
    sweep.template step<true>(j, visible - j);
    j += LANES<Real>;
  }
  for (; j < count; j += LANES<Real>) sweep.clear(j);
}

/// v, with `otherwise` in the lanes that do not count.
template <bool MASKED, typename Real>
ALTERNET_INLINE Vector<Real> counted(Vector<Real> v, int64_t lanes, Real otherwise = 0) {
  return MASKED ? where<Real>(first_lanes<Real>(lanes), v, splat(otherwise)) : v;
}

/// Row i of a tensor of at most MAX_COLUMNS, as numbers of the arithmetic type.
template <typename Real>
class RowOf {
 public:
  RowOf(const Matrix& from, int64_t i, int64_t columns) : data_(padded_row(from, i, columns, buffer_)) {}
  RowOf(const RowOf&) = delete;

  const Real* data() const { return data_; }

 private:
  alignas(64) Real buffer_[MAX_COLUMNS];
  const Real* data_;
};

/// sum over j of a[j] b[j].
template <typename Real>
Real dot(const Real* a, const Real* b, int64_t n) {
  Vector<Real> sum{};
  int64_t j = 0;
  for (; j + LANES<Real> <= n; j += LANES<Real>) sum += load(a + j) * load(b + j);
  Real rest = 0;
  for (; j < n; ++j) rest += a[j] * b[j];
  return reduce<Sum, Real>(sum) + rest;
}

}  // namespace alternet::ALTERNET_ISA
