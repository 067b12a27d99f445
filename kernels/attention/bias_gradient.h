// Collects dS into d_bias, summed over the axes that the bias broadcasts over (see bias_sharing.h).
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/bias_sharing.h"
#include "attention/tiles.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
class BiasGradient {
 public:
  BiasGradient(const Problem& problem, Carver& scratch)
      : p(problem),
        sharing(problem),
        rows(sharing.per_query ? p.plan.tile_rows : 1),
        stride(sharing.per_key ? padded<Real>(p.keys) : 1),
        sums(scratch.take<Real>(p.d_bias ? p.tangents * rows * stride : 0)) {}  // [T, rows, M or 1]

  explicit operator bool() const { return static_cast<bool>(p.d_bias); }

  void begin_task() {
    if (p.d_bias && !sharing.per_query) clear();
  }

  void begin_tile() {
    if (p.d_bias && sharing.per_query) clear();
  }

  /// Adds row r of tangent t's dS under `keys`; it is zero where nothing is visible.
  void add(int64_t t, int64_t r, Range keys, const Real* d_scores) {
    Real* sum = sums + (t * rows + (sharing.per_query ? r : 0)) * stride;
    if (!sharing.per_key) {
      for (int64_t j = 0; j < keys.count; ++j) *sum += d_scores[j];
      return;
    }
    for (int64_t j = 0; j < padded<Real>(keys.count); ++j) sum[keys.first + j] += d_scores[j];
  }

  void end_tile(const Task& task, Range queries) {
    if (p.d_bias && sharing.per_query) commit(task, queries);
  }

  void end_task(const Task& task) {
    if (p.d_bias && !sharing.per_query) commit(task, {0, 1});
  }

 private:
  void clear() { std::fill_n(sums, p.tangents * rows * stride, Real(0)); }

  void commit(const Task& task, Range queries) {
    const bool shared = sharing.sharers() > 1;
    const int64_t chain = sharing.chain(task, queries.first), rank = sharing.rank(task);
    if (shared) p.bias_turns->wait(chain, rank);
    for (int64_t t = 0; t < p.tangents; ++t) {
      const Rows<Real> from{sums + t * rows * stride, stride};
      const Matrix to = p.d_bias.slice(task.b, task.h, t);
      write_rows(from, queries.count, sharing.per_key ? p.keys : 1, Real(1), to, queries.first, rank > 0);
    }
    if (shared) p.bias_turns->pass(chain, rank);
  }

  const Problem& p;
  BiasSharing sharing;
  int64_t rows, stride;
  Real* sums;
};

}  // namespace alternet::ALTERNET_ISA
