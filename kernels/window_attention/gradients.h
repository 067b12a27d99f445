// Window attention: backward and its tangent, a strip of windows at a time. Included once per instruction set (see
// csrc/vector.h).
//
//   dP^T = V^T G,  dS = P (dP - rowsum(P dP)),  d_query^T = scale K^T dS^T,  d_key^T = scale Q^T dS,  d_value^T = G^T P,
// and dS summed by relative position is d_table. The products with P and dS need tiles [queries, keys].
#pragma once

#include "window_attention/outputs.h"

namespace alternet::ALTERNET_ISA {

/// What a gradient is made from in each window of a block: dS^T, and P and dS where they are needed.
template <typename Real>
class ScoreGradients {
 public:
  ScoreGradients(const WindowProblem& p, Carver& scratch)
      : probabilities(p, scratch),
        value(p, p.has_score_gradient() ? p.value : FeatureMap{}, p.value_width, scratch),
        grad(p, p.grad, p.value_width, scratch),
        d_scores(p, kept_tiles(p), p.has_score_gradient(), scratch),
        untransposed(p, kept_tiles(p), static_cast<bool>(p.d_value), scratch),
        d_untransposed(p, kept_tiles(p), static_cast<bool>(p.d_key), scratch),
        p_(p) {}

  void begin() {
    probabilities.begin();
    d_scores.clear();
  }

  void load(const Block& block) {
    probabilities.load(block);
    value.load(block);
    grad.load(block);
  }

  void compute(const WindowTask& task, int64_t k, const Window& window) {
    const int64_t tokens = window.tokens();
    probabilities.compute(task, k, window);
    if (p_.d_value) untransposed.transpose_of(probabilities.tiles(), k, k, tokens);
    if (!p_.has_score_gradient()) return;
    const Term<Real> vg{value.rows(k), grad.panels(k)};
    d_scores.multiply_into(k, tokens, p_.value_width, &vg, 1);
    score_gradient<Real>(probabilities.tiles().tile(k), d_scores.tile(k), tokens, d_scores.stride());
    if (p_.d_key) d_untransposed.transpose_of(d_scores, k, k, tokens);
  }

  Probabilities<Real> probabilities;
  Planes<Real> value, grad;
  Tiles<Real> d_scores, untransposed, d_untransposed;

 private:
  const WindowProblem& p_;
};

template <typename Real>
class WindowBackward {
 public:
  WindowBackward(const WindowProblem& p, Carver& scratch)
      : p_(p), primal_(p, scratch),
        d_query_(p, p.d_query, p.width, scratch),
        d_key_(p, p.d_key, p.width, scratch),
        d_value_(p, p.d_value, p.value_width, scratch),
        d_table_(p, scratch) {}

  void run(const WindowTask& task) {
    primal_.begin();
    d_table_.begin(task);
    task.for_blocks(p_, [&](const Block& block) { run(task, block); });
    d_table_.end();
  }

 private:
  void run(const WindowTask& task, const Block& block) {
    primal_.load(block);
    for (int64_t k = 0; k < block.count; ++k) run(task, block.window(k), k);
    d_query_.write(block, static_cast<Real>(p_.scale));
    d_key_.write(block, static_cast<Real>(p_.scale));
    d_value_.write(block, 1);
  }

  void run(const WindowTask& task, const Window& window, int64_t k) {
    const int64_t tokens = window.tokens();
    primal_.compute(task, k, window);
    if (d_query_) {
      const Term<Real> ks{primal_.probabilities.key.rows(k), primal_.d_scores.panels(k)};
      d_query_.multiply_into(k, tokens, &ks, 1);
    }
    if (d_key_) {
      const Term<Real> qs{primal_.probabilities.query.rows(k), primal_.d_untransposed.panels(k)};
      d_key_.multiply_into(k, tokens, &qs, 1);
    }
    if (d_value_) {
      const Term<Real> gp{primal_.grad.rows(k), primal_.untransposed.panels(k)};
      d_value_.multiply_into(k, tokens, &gp, 1);
    }
    if (d_table_) d_table_.add(window, primal_.d_scores.tile(k));
  }

  const WindowProblem& p_;
  ScoreGradients<Real> primal_;
  Planes<Real> d_query_, d_key_, d_value_;
  TableGradient<Real> d_table_;
};

}  // namespace alternet::ALTERNET_ISA
