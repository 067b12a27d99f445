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
        value(p, p.d.of_scores() ? p.value : FeatureMap{}, p.value_width, scratch),
        grad(p, p.grad, p.value_width, scratch),
        d_scores(p, kept_tiles(p), p.d.of_scores(), scratch),
        untransposed(p, kept_tiles(p), static_cast<bool>(p.d.value), scratch),
        d_untransposed(p, kept_tiles(p), static_cast<bool>(p.d.key), scratch),
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
    if (p_.d.value) untransposed.transpose_of(probabilities.tiles(), k, k, tokens);
    if (!p_.d.of_scores()) return;
    const Term<Real> vg{value.rows(k), grad.panels(k)};
    d_scores.multiply_into(k, tokens, p_.value_width, &vg, 1);
    score_gradient<Real>(probabilities.tiles().tile(k), d_scores.tile(k), tokens, d_scores.stride());
    if (p_.d.key) d_untransposed.transpose_of(d_scores, k, k, tokens);
  }

  Probabilities<Real> probabilities;
  Planes<Real> value, grad;
  Tiles<Real> d_scores, untransposed, d_untransposed;

 private:
  const WindowProblem& p_;
};

/// The gradients on their way to `results`, of a block's windows and one tangent at a time.
template <typename Real>
struct GradientPlanes {
  GradientPlanes(const WindowProblem& p, const Gradients& results, int64_t tangents, Carver& scratch)
      : query(p, results.query, p.width, scratch),
        key(p, results.key, p.width, scratch),
        value(p, results.value, p.value_width, scratch),
        table(p, results.table, tangents, scratch),
        scale(static_cast<Real>(p.scale)) {}

  void begin(const WindowTask& task) { table.begin(task); }

  /// The gradients themselves, of window k.
  void multiply_into(const ScoreGradients<Real>& primal, int64_t k, const Window& window) {
    const int64_t tokens = window.tokens();
    if (query) {
      const Term<Real> ks{primal.probabilities.key.rows(k), primal.d_scores.panels(k)};
      query.multiply_into(k, tokens, &ks, 1);
    }
    if (key) {
      const Term<Real> qs{primal.probabilities.query.rows(k), primal.d_untransposed.panels(k)};
      key.multiply_into(k, tokens, &qs, 1);
    }
    if (value) {
      const Term<Real> gp{primal.grad.rows(k), primal.untransposed.panels(k)};
      value.multiply_into(k, tokens, &gp, 1);
    }
    if (table) table.add(window, primal.d_scores.tile(k));
  }

  void write(const Block& block, int64_t t = 0) const {
    query.write(block, scale, t);
    key.write(block, scale, t);
    value.write(block, 1, t);
  }

  void end() { table.end(); }

  Planes<Real> query, key, value;
  TableGradient<Real> table;
  Real scale;
};

template <typename Real>
class WindowBackward {
 public:
  WindowBackward(const WindowProblem& p, Carver& scratch) : p_(p), primal_(p, scratch), d_(p, p.d, 1, scratch) {}

  void run(const WindowTask& task) {
    primal_.begin();
    d_.begin(task);
    task.for_blocks(p_, [&](const Block& block) { run(task, block); });
    d_.end();
  }

 private:
  void run(const WindowTask& task, const Block& block) {
    primal_.load(block);
    for (int64_t k = 0; k < block.count; ++k) {
      primal_.compute(task, k, block.window(k));
      d_.multiply_into(primal_, k, block.window(k));
    }
    d_.write(block);
  }

  const WindowProblem& p_;
  ScoreGradients<Real> primal_;
  GradientPlanes<Real> d_;
};

}  // namespace alternet::ALTERNET_ISA
