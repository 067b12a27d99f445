// Forward: out = softmax(S) V and lse, S = scale Q K^T + bias, over tiles of keys with a running maximum.
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include <cmath>

#include "attention/bias.h"
#include "attention/operands.h"

namespace alternet::ALTERNET_ISA {

/// s <- scale s + bias, and the largest.
template <typename Real>
struct ScoreSweep {
  Real* s;
  const Real* bias;
  Real scale;
  Vector<Real> highest = splat(-std::numeric_limits<Real>::infinity());

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    const Vector<Real> x = load(s + j) * scale + load(bias + j);
    store(s + j, x);
    highest = Max::combine(highest, counted<MASKED, Real>(x, lanes, -std::numeric_limits<Real>::infinity()));
  }
  ALTERNET_INLINE void clear(int64_t) {}
};

/// s <- exp(s - shift), and their sum.
template <typename Real>
struct SoftmaxSweep {
  Real* s;
  Real shift;
  Vector<Real> sum{};

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    const Vector<Real> p = counted<MASKED, Real>(exponential<Real>(load(s + j) - shift), lanes);
    sum += p;
    store(s + j, p);
  }
  ALTERNET_INLINE void clear(int64_t j) { store(s + j, Vector<Real>{}); }
};

template <typename Factor>
class Forward {
 public:
  using Real = SumOf<Factor>;

  Forward(const Problem& problem, Carver& scratch)
      : p(problem),
        key_t(p, p.key, 1, p.width, true, scratch),                 // [D, M]
        value(p.value, 1, p.keys, p.value_width, true, scratch),    // [M, Dv]
        query(p, p.query, 1, p.width, false, scratch),              // [rows, D]
        scores(p, true, true, false, scratch),                      // [rows, keys]: S, then P
        out(p.r_out, 1, p.plan.tile_rows, p.value_width, scratch),  // [rows, Dv]: sum of P V
        sum(scratch.take<Vector<Real>>(p.plan.tile_rows)),          // [rows]: of P, by lane
        highest(scratch.take<Real>(p.plan.tile_rows)),              // [rows]: of S so far
        bias(p, p.bias, p.table, 1, true, scratch) {}

  void run(const Task& task) {
    const int64_t keys = seen(p, task.queries()).end();
    key_t.load(task, keys);
    value.load(task, {0, keys});
    bias.load(task);
    for_tiles(task.queries(), p.plan.tile_rows, [&](Range queries) { tile(task, queries); });
  }

 private:
  void tile(const Task& task, Range queries) {
    query.load(task, queries);
    std::fill_n(highest, queries.count, -std::numeric_limits<Real>::infinity());
    std::fill_n(sum, queries.count, Vector<Real>{});
    for_tiles(seen(p, queries), p.plan.tile_keys, [&](Range keys) { accumulate(task, queries, keys); });
    finish(task, queries);
  }

  void accumulate(const Task& task, Range queries, Range keys) {
    // 1) S = Q K^T
    const Term<Factor> qk{query.rows(), key_t.under(keys)};
    scores.multiply_into(queries, keys, p.width, &qk, 1);
    // 2) P = exp(scale S + bias - highest)
    const BiasRows<Real> rows = bias.rows(task);
    const bool begun = continues(p, queries, keys);
    for (int64_t r = 0; r < queries.count; ++r) {
      const int64_t i = queries.first + r;
      exponentials(r, rows(i, keys), visible(p, i, keys), keys, begun);
    }
    // 3) out += P V
    scores.settle(queries, keys);
    const Term<Factor> pv{scores.rows(), value.below(keys.first)};
    multiply(queries.count, p.value_width, factors<Factor>(keys.count), &pv, 1, out.row(0), out.stride(), begun);
  }

  void exponentials(int64_t r, const Real* bias, int64_t seen, Range keys, bool begun) {
    ScoreSweep<Real> score{scores.row(r), bias, static_cast<Real>(p.scale)};
    sweep_row<Real>(score, seen, keys.count);
    raise(r, reduce<Max, Real>(score.highest), begun);
    // a row that has seen no key yet is shifted by 0: exp(-inf) is 0, -inf - -inf would be NaN
    const bool blind = highest[r] == -std::numeric_limits<Real>::infinity();
    SoftmaxSweep<Real> softmax{scores.row(r), blind ? Real(0) : highest[r]};
    sweep_row<Real>(softmax, seen, keys.count);
    sum[r] += softmax.sum;
  }

  /// What was summed under a lower `highest` shrinks.
  void raise(int64_t r, Real to, bool accumulated) {
    if (!(to > highest[r])) return;
    if (accumulated) {
      const Real shrink = std::exp(highest[r] - to);
      for (int64_t d = 0; d < out.stride(); ++d) out.row(r)[d] *= shrink;
      sum[r] *= shrink;
    }
    highest[r] = to;
  }

  void finish(const Task& task, Range queries) {
    const Matrix to = p.r_out.slice(task.b, task.h), lse = p.r_lse.slice(task.b, task.h);
    for (int64_t r = 0; r < queries.count; ++r) {
      const int64_t i = queries.first + r;
      const Real total = reduce<Sum, Real>(sum[r]);
      const bool blind = total == 0;  // sees no key: any other row has a term exp(0)
      write_row(out.row(r), p.value_width, blind ? Real(0) : 1 / total, to.at(i), to.type, false);
      at<Real>(lse, i) = blind ? std::numeric_limits<Real>::infinity() : highest[r] + std::log(total);
    }
  }

  const Problem& p;
  KeysTransposed<Factor> key_t;
  RowPanels<Factor> value;
  QueryRows<Factor> query;
  ScoreTile<Factor> scores;
  Sums<Factor> out;
  Vector<Real>* sum;
  Real* highest;
  Bias<Real> bias;
};

}  // namespace alternet::ALTERNET_ISA
