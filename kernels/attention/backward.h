// Backward: dS = P (G V^T - delta), delta = rowsum(G out); d_query = scale dS K, d_key = scale dS^T Q, d_value = P^T G,
// d_bias = dS summed over what the bias broadcasts over. P = exp(S - lse).
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/bias_gradient.h"
#include "attention/operands.h"
#include "attention/sweeps.h"

namespace alternet::ALTERNET_ISA {

template <typename Factor>
class Backward {
 public:
  using Real = SumOf<Factor>;

  Backward(const Problem& problem, Carver& scratch)
      : p(problem),
        has_d_scores(p.has_score_gradient()),
        key_t(p, p.key, 1, p.width, true, scratch),                    // [D, M]
        value_t(p, p.value, 1, p.value_width, has_d_scores, scratch),  // [Dv, M]
        key(p.key, 1, p.keys, p.width, bool(p.d_query), scratch),      // [M, D]
        query(p, p.query, 1, p.width, bool(p.d_key), scratch),         // [rows, D]
        grad(p, p.grad, 1, p.value_width, bool(p.d_value), scratch),   // [rows, Dv]
        scores(p, true, false, bool(p.d_value), scratch),              // [rows, keys]: S, P
        d_scores(p, has_d_scores, bool(p.d_query), bool(p.d_key), scratch),  // [rows, keys]: dP, dS
        d_query(p.d_query, 1, p.plan.tile_rows, p.width, scratch),     // [rows, D]
        d_key(p.d_key, 1, p.keys, p.width, scratch),                   // [M, D]
        d_value(p.d_value, 1, p.keys, p.value_width, scratch),         // [M, Dv]
        d_bias(p, scratch),                                            // [rows, M]
        d_table(p, scratch),
        delta(scratch.take<Real>(p.plan.tile_rows)),                   // [rows]
        bias(p, p.bias, p.table, 1, true, scratch) {}

  void run(const Task& task) {
    const int64_t keys = seen(p, task.queries()).end();
    for (KeysTransposed<Factor>* side : {&key_t, &value_t}) side->load(task, keys);
    key.load(task, {0, keys});
    bias.load(task);
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
    for (QueryRows<Factor>* side : {&query, &grad}) side->load(task, queries);
    const Matrix grads = p.grad.slice(task.b, task.h), outs = p.out.slice(task.b, task.h);
    if (has_d_scores) row_dots<Real>(grads, outs, queries, p.value_width, delta);
    d_bias.begin_tile();
    for_tiles(seen(p, queries), p.plan.tile_keys, [&](Range keys) {
      probabilities(task, queries, keys);
      if (has_d_scores) score_gradients(queries, keys);
      accumulate(queries, keys);
    });
    d_bias.end_tile(task, queries);
    d_query.write(task, queries.first, queries.count, static_cast<Real>(p.scale));
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
      if (d_bias) d_bias.add(0, r, keys, d_scores.row(r));
      if (d_table) d_table.add(0, queries.first + r, keys, d_scores.row(r));
    }
    d_scores.settle(queries, keys);
  }

  /// 3) d_query += dS K, d_key += dS^T Q, d_value += P^T G
  void accumulate(Range queries, Range keys) {
    if (d_query) {
      const Term<Factor> term{d_scores.rows(), key.below(keys.first)};
      multiply(queries.count, p.width, factors<Factor>(keys.count), &term, 1, d_query.row(0), d_query.stride(),
               continues(p, queries, keys));
    }
    if (d_key) {
      const Term<Factor> term{d_scores.columns(), query.panels()};
      d_scores.multiply_over_queries(queries, keys, p.width, &term, 1, d_key.row(keys.first), d_key.stride());
    }
    if (d_value) {
      const Term<Factor> term{scores.columns(), grad.panels()};
      scores.multiply_over_queries(queries, keys, p.value_width, &term, 1, d_value.row(keys.first), d_value.stride());
    }
  }

  const Problem& p;
  bool has_d_scores;
  KeysTransposed<Factor> key_t, value_t;
  RowPanels<Factor> key;
  QueryRows<Factor> query, grad;
  ScoreTile<Factor> scores, d_scores;
  Sums<Factor> d_query, d_key, d_value;
  BiasGradient<Real> d_bias;
  TableGradient<Real> d_table;
  Real* delta;
  Bias<Real> bias;
};

}  // namespace alternet::ALTERNET_ISA
