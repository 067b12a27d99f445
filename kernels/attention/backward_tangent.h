// Backward's tangent. With P' = P u, u = S' - lse', dS = P (dP - delta):
//   dS' = P' (dP - delta) + P (dP' - delta') = u dS + P (dP' - delta'),
//   dP' = G' V^T + G V'^T, delta' = rowsum(G' out + G out'), S' = scale (Q' K^T + Q K'^T) + bias',
//   d_query' = scale (dS' K + dS K'), d_key' = scale (dS'^T Q + dS^T Q'), d_value' = P'^T G + P^T G',
//   d_bias' = dS' summed over what the bias broadcasts over.
// Included once per instruction set (see csrc/vector.h).
//
// P and dS are computed once for all T tangents, which take turns in two more score tiles.
#pragma once

#include "attention/bias_gradient.h"
#include "attention/operands.h"
#include "attention/sweeps.h"

namespace alternet::ALTERNET_ISA {

/// s <- P' = P u, u = scale s + bias' - lse'; if GRADIENTS, d <- dS' = u dS + P (d - delta').
template <typename Real, bool GRADIENTS>
struct TangentSweep {
  const Real *p, *ds;
  Real *s, *d;
  const Real* t_bias;
  Real scale, t_lse, t_delta;

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    const Vector<Real> probability = load(p + j);
    const Vector<Real> u = load(s + j) * scale + (load(t_bias + j) - t_lse);
    store(s + j, counted<MASKED, Real>(probability * u, lanes));
    if constexpr (GRADIENTS)
      store(d + j, counted<MASKED, Real>(u * load(ds + j) + probability * (load(d + j) - t_delta), lanes));
  }
  ALTERNET_INLINE void clear(int64_t j) {
    store(s + j, Vector<Real>{});
    if constexpr (GRADIENTS) store(d + j, Vector<Real>{});
  }
};

template <typename Factor>
class BackwardTangent {
 public:
  using Real = SumOf<Factor>;

  BackwardTangent(const Problem& problem, Carver& scratch)
      : p(problem),
        T(p.tangents),
        has_t_scores(p.has_score_tangent()),
        has_d_scores(p.has_score_gradient()),
        key_t(p, p.key, 1, p.width, true, scratch),                        // [D, M]
        t_key_t(p, p.t_key, T, p.width, true, scratch),                    // [T, D, M]
        value_t(p, p.value, 1, p.value_width, has_d_scores, scratch),      // [Dv, M]
        t_value_t(p, p.t_value, T, p.value_width, has_d_scores, scratch),  // [T, Dv, M]
        key(p.key, 1, p.keys, p.width, bool(p.d_query), scratch),          // [M, D]
        t_key(p.t_key, T, p.keys, p.width, bool(p.d_query), scratch),      // [T, M, D]
        query(p, p.query, 1, p.width, bool(p.d_key), scratch),             // [rows, D]
        t_query(p, p.t_query, T, p.width, bool(p.d_key), scratch),         // [T, rows, D]
        grad(p, p.grad, 1, p.value_width, bool(p.d_value), scratch),       // [rows, Dv]
        t_grad(p, p.t_grad, T, p.value_width, bool(p.d_value), scratch),   // [T, rows, Dv]
        scores(p, true, false, p.d_value && p.t_grad, scratch),            // [rows, keys]: S, P
        d_scores(p, has_d_scores && has_t_scores, p.d_query && p.t_key, p.d_key && p.t_query,
                 scratch),                                                 // [rows, keys]: dP, dS
        t_scores(p, has_t_scores, false, bool(p.d_value), scratch),        // [rows, keys]: S', P'
        t_d_scores(p, has_d_scores, bool(p.d_query), bool(p.d_key),
                   scratch),                                               // [rows, keys]: dP', dS'
        d_query(p.d_query, T, p.plan.tile_rows, p.width, scratch),         // [T, rows, D]
        d_key(p.d_key, T, p.keys, p.width, scratch),                       // [T, M, D]
        d_value(p.d_value, T, p.keys, p.value_width, scratch),             // [T, M, Dv]
        d_bias(p, scratch),                                                // [T, rows, M]
        d_table(p, scratch),
        delta(scratch.take<Real>(p.plan.tile_rows)),                       // [rows]
        t_delta(scratch.take<Real>(T * p.plan.tile_rows)),                 // [T, rows]
        bias(p, p.bias, p.table, 1, true, scratch),
        t_bias(p, p.t_bias, p.t_table, T, false, scratch) {}

  void run(const Task& task) {
    const int64_t keys = seen(p, task.queries()).end();
    for (KeysTransposed<Factor>* side : {&key_t, &t_key_t, &value_t, &t_value_t}) side->load(task, keys);
    for (RowPanels<Factor>* side : {&key, &t_key}) side->load(task, {0, keys});
    for (Bias<Real>* side : {&bias, &t_bias}) side->load(task);
    d_key.clear(p.keys);
    d_value.clear(p.keys);
    d_bias.begin_task();
    d_table.begin_task();
    for_tiles(task.queries(), p.plan.tile_rows, [&](Range queries) { tile(task, queries); });
    d_bias.end_task(task);
    d_table.end_task(task);
    write_key_side(p, task, d_key, d_value);
  }

 private:
  void tile(const Task& task, Range queries) {
    for (QueryRows<Factor>* side : {&query, &t_query, &grad, &t_grad}) side->load(task, queries);
    deltas(task, queries);
    d_bias.begin_tile();
    for_tiles(seen(p, queries), p.plan.tile_keys, [&](Range keys) {
      probabilities(task, queries, keys);
      if (has_d_scores && has_t_scores) score_gradients(queries, keys);
      for (int64_t t = 0; t < T; ++t) {
        products(queries, keys, t);
        sweeps(task, queries, keys, t);
        accumulate_queries(queries, keys, t);
        accumulate_keys(queries, keys, t);
      }
    });
    d_bias.end_tile(task, queries);
    d_query.write(task, queries.first, queries.count, static_cast<Real>(p.scale));
  }

  /// delta = rowsum(G out), delta' = rowsum(G' out + G out')
  void deltas(const Task& task, Range queries) {
    const Matrix grads = p.grad.slice(task.b, task.h), outs = p.out.slice(task.b, task.h);
    row_dots<Real>(grads, outs, queries, p.value_width, delta);
    for (int64_t t = 0; t < T; ++t) {
      Real* const sums = t_delta + t * p.plan.tile_rows;
      std::fill_n(sums, queries.count, Real(0));
      if (p.t_grad) row_dots<Real>(p.t_grad.slice(task.b, task.h, t), outs, queries, p.value_width, sums, true);
      if (p.t_out) row_dots<Real>(grads, p.t_out.slice(task.b, task.h, t), queries, p.value_width, sums, true);
    }
  }

  /// 1) S = Q K^T, P = exp(scale S + bias - lse)
  void probabilities(const Task& task, Range queries, Range keys) {
    const Term<Factor> qk{query.rows(), key_t.under(keys)};
    scores.multiply_into(queries, keys, p.width, &qk, 1);
    to_probabilities(p, task, queries, keys, scores, bias.rows(task));
    scores.settle(queries, keys);
  }

  /// 2) dP = G V^T, dS = P (dP - delta)
  void score_gradients(Range queries, Range keys) {
    const Term<Factor> gv{grad.rows(), value_t.under(keys)};
    d_scores.multiply_into(queries, keys, p.value_width, &gv, 1);
    for (int64_t r = 0; r < queries.count; ++r) {
      ScoreGradientSweep<Real> sweep{scores.row(r), d_scores.row(r), delta[r]};
      sweep_row<Real>(sweep, visible(p, queries.first + r, keys), keys.count);
    }
    d_scores.settle(queries, keys);
  }

  /// 3) S' = Q' K^T + Q K'^T, dP' = G' V^T + G V'^T
  void products(Range queries, Range keys, int64_t t) {
    Term<Factor> terms[2];
    if (has_t_scores) {
      int count = 0;
      if (t_query) terms[count++] = {t_query.rows(t), key_t.under(keys)};
      if (t_key_t) terms[count++] = {query.rows(), t_key_t.under(keys, t)};
      t_scores.multiply_into(queries, keys, p.width, terms, count);
    }
    if (has_d_scores) {
      int count = 0;
      if (t_grad) terms[count++] = {t_grad.rows(t), value_t.under(keys)};
      if (t_value_t) terms[count++] = {grad.rows(), t_value_t.under(keys, t)};
      t_d_scores.multiply_into(queries, keys, p.value_width, terms, count);
    }
  }

  /// 4) P' = P (scale S' + bias' - lse'), dS'
  void sweeps(const Task& task, Range queries, Range keys, int64_t t) {
    const BiasRows<Real> rows = t_bias.rows(task, t);
    for (int64_t r = 0; r < queries.count; ++r) {
      const int64_t i = queries.first + r, seen = visible(p, i, keys);
      const Real shift = t_delta[t * p.plan.tile_rows + r];
      if (!has_t_scores) {
        ScoreGradientSweep<Real> sweep{scores.row(r), t_d_scores.row(r), shift};
        if (has_d_scores) sweep_row<Real>(sweep, seen, keys.count);
      } else if (has_d_scores) {
        sweep_tangent<true>(task, r, i, t, rows(i, keys), shift, seen, keys);
      } else {
        sweep_tangent<false>(task, r, i, t, rows(i, keys), shift, seen, keys);
      }
      if (d_bias) d_bias.add(t, r, keys, t_d_scores.row(r));
      if (d_table) d_table.add(t, i, keys, t_d_scores.row(r));
    }
    t_scores.settle(queries, keys);
    t_d_scores.settle(queries, keys);
  }

  template <bool GRADIENTS>
  void sweep_tangent(const Task& task, int64_t r, int64_t i, int64_t t, const Real* t_bias, Real shift, int64_t seen,
                     Range keys) {
    TangentSweep<Real, GRADIENTS> sweep{scores.row(r),
                                        d_scores.row(r),
                                        t_scores.row(r),
                                        t_d_scores.row(r),
                                        t_bias,
                                        static_cast<Real>(p.scale),
                                        at<Real>(p.t_lse.slice(task.b, task.h, t), i),
                                        shift};
    sweep_row<Real>(sweep, seen, keys.count);
  }

  /// 5) d_query' += dS' K + dS K'
  void accumulate_queries(Range queries, Range keys, int64_t t) {
    if (!d_query) return;
    Term<Factor> terms[2];
    int count = 0;
    terms[count++] = {t_d_scores.rows(), key.below(keys.first)};
    if (t_key) terms[count++] = {d_scores.rows(), t_key.below(keys.first, t)};
    multiply(queries.count, p.width, factors<Factor>(keys.count), terms, count, d_query.row(0, t), d_query.stride(),
             continues(p, queries, keys));
  }

  /// 6) d_key' += dS'^T Q + dS^T Q', d_value' += P'^T G + P^T G'
  void accumulate_keys(Range queries, Range keys, int64_t t) {
    Term<Factor> terms[2];
    if (d_key) {
      int count = 0;
      terms[count++] = {t_d_scores.columns(), query.panels()};
      if (t_query) terms[count++] = {d_scores.columns(), t_query.panels(t)};
      scores.multiply_over_queries(queries, keys, p.width, terms, count, d_key.row(keys.first, t), d_key.stride());
    }
    if (d_value) {
      int count = 0;
      if (has_t_scores) terms[count++] = {t_scores.columns(), grad.panels()};
      if (t_grad) terms[count++] = {scores.columns(), t_grad.panels(t)};
      scores.multiply_over_queries(queries, keys, p.value_width, terms, count, d_value.row(keys.first, t),
                                   d_value.stride());
    }
  }

  const Problem& p;
  int64_t T;
  bool has_t_scores, has_d_scores;
  KeysTransposed<Factor> key_t, t_key_t, value_t, t_value_t;
  RowPanels<Factor> key, t_key;
  QueryRows<Factor> query, t_query, grad, t_grad;
  ScoreTile<Factor> scores, d_scores, t_scores, t_d_scores;
  Sums<Factor> d_query, d_key, d_value;
  BiasGradient<Real> d_bias;
  TableGradient<Real> d_table;
  Real *delta, *t_delta;
  Bias<Real> bias, t_bias;
};

}  // namespace alternet::ALTERNET_ISA
