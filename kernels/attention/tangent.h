// Tangent: out' = P' V + P V' and lse' = rowsum(P S'), P = exp(S - lse), S' = scale (Q' K^T + Q K'^T) + bias',
// P' = P (S' - lse').
// Included once per instruction set (see csrc/vector.h).
//
// One sweep: lse' is known only at the end of a row, so P (S' - c) V is summed instead, with c the mean of S' over the
// row's first tile of keys. With e = rowsum(P (S' - c)): lse' = c + e, and out' lacks e out. Any c would do; one near
// lse' leaves little to cancel.
#pragma once

#include "attention/operands.h"
#include "attention/sweeps.h"

namespace alternet::ALTERNET_ISA {

/// The sum of P S', S' = scale s + bias.
template <typename Real>
struct MeanSweep {
  const Real* p;
  const Real* s;
  const Real* bias;
  Real scale;
  Vector<Real> sum{};

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    sum += counted<MASKED, Real>(load(p + j) * (load(s + j) * scale + load(bias + j)), lanes);
  }
  ALTERNET_INLINE void clear(int64_t) {}
};

/// s <- P (scale s + bias - centre), and its sum.
template <typename Real>
struct CentredSweep {
  const Real* p;
  Real* s;
  const Real* bias;
  Real scale, centre;
  Vector<Real> sum{};

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    const Vector<Real> w = load(p + j) * (load(s + j) * scale + (load(bias + j) - centre));
    store(s + j, counted<MASKED, Real>(w, lanes));
    sum += counted<MASKED, Real>(w, lanes);
  }
  ALTERNET_INLINE void clear(int64_t j) { store(s + j, Vector<Real>{}); }
};

template <typename Factor>
class Tangent {
 public:
  using Real = SumOf<Factor>;

  Tangent(const Problem& problem, Carver& scratch)
      : p(problem),
        T(p.tangents),
        has_t_scores(p.has_score_tangent()),
        key_t(p, p.key, 1, p.width, true, scratch),                       // [D, M]
        t_key_t(p, p.t_key, T, p.width, true, scratch),                   // [T, D, M]
        value(p.value, 1, p.keys, p.value_width, has_t_scores, scratch),  // [M, Dv]
        t_value(p.t_value, T, p.keys, p.value_width, true, scratch),      // [T, M, Dv]
        query(p, p.query, 1, p.width, false, scratch),                    // [rows, D]
        t_query(p, p.t_query, T, p.width, false, scratch),                // [T, rows, D]
        scores(p, true, bool(p.t_value), false, scratch),                 // [rows, keys]: S, P
        t_scores(p, has_t_scores, true, false, scratch),                  // [rows, keys]: S', then P (S' - c)
        t_out(p.r_out, T, p.plan.tile_rows, p.value_width, scratch),      // [T, rows, Dv]
        sum(scratch.take<Real>(p.plan.tile_rows)),                        // [rows]: of P over the first tile
        centre(scratch.take<Real>(T * p.plan.tile_rows)),                 // [T, rows]: c
        excess(scratch.take<Vector<Real>>(T * p.plan.tile_rows)),         // [T, rows]: e, by lane
        bias(p, p.bias, p.table, 1, true, scratch),
        t_bias(p, p.t_bias, p.t_table, T, false, scratch) {}

  void run(const Task& task) {
    const int64_t keys = seen(p, task.queries()).end();
    for (KeysTransposed<Factor>* side : {&key_t, &t_key_t}) side->load(task, keys);
    for (RowPanels<Factor>* side : {&value, &t_value}) side->load(task, {0, keys});
    for (Bias<Real>* side : {&bias, &t_bias}) side->load(task);
    for_tiles(task.queries(), p.plan.tile_rows, [&](Range queries) { tile(task, queries); });
  }

 private:
  void tile(const Task& task, Range queries) {
    for (QueryRows<Factor>* side : {&query, &t_query}) side->load(task, queries);
    for_tiles(seen(p, queries), p.plan.tile_keys, [&](Range keys) {
      probabilities(task, queries, keys);
      for (int64_t t = 0; t < T; ++t) {
        if (has_t_scores) weights(task, queries, keys, t);
        accumulate(queries, keys, t);
      }
    });
    finish(task, queries);
  }

  /// 1) S = Q K^T, P = exp(scale S + bias - lse)
  void probabilities(const Task& task, Range queries, Range keys) {
    const Term<Factor> qk{query.rows(), key_t.under(keys)};
    scores.multiply_into(queries, keys, p.width, &qk, 1);
    Real* const first_sum = continues(p, queries, keys) ? nullptr : sum;
    to_probabilities(p, task, queries, keys, scores, bias.rows(task), first_sum);
    scores.settle(queries, keys);
  }

  /// 2) S' = Q' K^T + Q K'^T, P (scale S' + bias' - c)
  void weights(const Task& task, Range queries, Range keys, int64_t t) {
    Term<Factor> terms[2];
    int count = 0;
    if (t_query) terms[count++] = {t_query.rows(t), key_t.under(keys)};
    if (t_key_t) terms[count++] = {query.rows(), t_key_t.under(keys, t)};
    t_scores.multiply_into(queries, keys, p.width, terms, count);
    const BiasRows<Real> rows = t_bias.rows(task, t);
    const bool begun = continues(p, queries, keys);
    for (int64_t r = 0; r < queries.count; ++r) {
      const int64_t i = queries.first + r;
      centred(t, r, rows(i, keys), visible(p, i, keys), keys, begun);
    }
    t_scores.settle(queries, keys);
  }

  void centred(int64_t t, int64_t r, const Real* t_bias, int64_t seen, Range keys, bool begun) {
    const int64_t at = t * p.plan.tile_rows + r;
    const Real scale = static_cast<Real>(p.scale);
    if (!begun) {
      MeanSweep<Real> mean{scores.row(r), t_scores.row(r), t_bias, scale};
      sweep_row<Real>(mean, seen, keys.count);
      centre[at] = sum[r] > 0 ? reduce<Sum, Real>(mean.sum) / sum[r] : 0;
      excess[at] = Vector<Real>{};
    }
    CentredSweep<Real> sweep{scores.row(r), t_scores.row(r), t_bias, scale, centre[at]};
    sweep_row<Real>(sweep, seen, keys.count);
    excess[at] += sweep.sum;
  }

  /// 3) out' += P (S' - c) V + P V'
  void accumulate(Range queries, Range keys, int64_t t) {
    Term<Factor> terms[2];
    int count = 0;
    if (has_t_scores) terms[count++] = {t_scores.rows(), value.below(keys.first)};
    if (t_value) terms[count++] = {scores.rows(), t_value.below(keys.first, t)};
    multiply(queries.count, p.value_width, factors<Factor>(keys.count), terms, count, t_out.row(0, t), t_out.stride(),
             continues(p, queries, keys));
  }

  /// 4) out' -= e out, lse' = c + e
  void finish(const Task& task, Range queries) {
    for (int64_t t = 0; t < T; ++t) {
      const Matrix t_lse = p.r_lse.slice(task.b, task.h, t), outs = p.out.slice(task.b, task.h);
      for (int64_t r = 0; r < queries.count; ++r) {
        const RowOf<Real> out(outs, queries.first + r, p.value_width);
        const int64_t index = t * p.plan.tile_rows + r;
        const Real e = has_t_scores ? reduce<Sum, Real>(excess[index]) : 0;
        at<Real>(t_lse, queries.first + r) = has_t_scores ? centre[index] + e : 0;
        for (int64_t d = 0; d < p.value_width; ++d) t_out.row(r, t)[d] -= e * out.data()[d];
      }
    }
    t_out.write(task, queries.first, queries.count, Real(1));
  }

  const Problem& p;
  int64_t T;
  bool has_t_scores;
  KeysTransposed<Factor> key_t, t_key_t;
  RowPanels<Factor> value, t_value;
  QueryRows<Factor> query, t_query;
  ScoreTile<Factor> scores, t_scores;
  Sums<Factor> t_out;
  Real *sum, *centre;
  Vector<Real>* excess;
  Bias<Real> bias, t_bias;
};

}  // namespace alternet::ALTERNET_ISA
