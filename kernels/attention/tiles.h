// What the four maps share: scratch memory, tiles of queries and keys, rows of the bias, sweeps over a row of scores.
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

namespace alternet::ALTERNET_ISA {

/// Consecutive queries or keys.
struct Range {
  int64_t first, count;

  int64_t end() const { return first + count; }
};

/// The keys that some query before `query_end` sees.
inline int64_t reach(const Problem& p, int64_t query_end) { return p.causal ? std::min(p.keys, query_end) : p.keys; }

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

/// Calls visit(range) for each tile of [first, end). What `visit` does with vectors it does in functions that it calls:
/// a lambda may not inherit the instruction set.
template <typename Visit>
inline void for_tiles(int64_t first, int64_t end, int64_t size, const Visit& visit) {
  for (; first < end; first += size) visit(Range{first, std::min(size, end - first)});
}

/// Rows of the bias, or of its tangent, under a tile of keys, readable up to a whole number of vectors; zeros where
/// there is none.
template <typename Real>
class BiasRows {
 public:
  BiasRows(const Problem& p, const Operand& bias, const Task& task, int64_t t, Real* buffer)
      : present_(bias), bias_(bias.slice(task.b, task.h, t)), total_keys_(p.keys), buffer_(buffer) {
    std::fill_n(buffer, score_stride<Real>(p), Real(0));
  }

  const Real* operator()(int64_t i, Range keys) const {
    if (!present_) return buffer_;
    const bool inside = keys.first + padded<Real>(keys.count) <= total_keys_;
    if (inside && in_place<Real>(bias_)) return reinterpret_cast<const Real*>(bias_.at(i, keys.first));
    widen(buffer_, bias_.at(i, keys.first), bias_.type, bias_.column, keys.count);
    return buffer_;
  }

 private:
  bool present_;
  Matrix bias_;
  int64_t total_keys_;
  Real* buffer_;
};

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
