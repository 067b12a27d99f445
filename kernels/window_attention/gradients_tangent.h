// Window attention: the tangent of backward, a strip of windows at a time. Included once per instruction set (see
// csrc/vector.h).
//
// Differentiate backward, with u = S' - rowsum(P S') and rowsum(P') = 0:
//   P' = P u,  dP'^T = V'^T G + V^T G',  dS' = u dS + P dP' - P rowsum(u dS + P dP'),
//   d_query'^T = scale (K^T dS'^T + K'^T dS^T),  d_key'^T = scale (Q^T dS' + Q'^T dS),  d_value'^T = G^T P' + G'^T P.
//
// Where the gradients themselves are asked for too, they come from the same P and dS.
#pragma once

#include "window_attention/gradients.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
class WindowBackwardTangent {
 public:
  WindowBackwardTangent(const WindowProblem& p, Carver& scratch)
      : p_(p), has_t_scores_(p.has_score_tangent()), has_d_scores_(p.d.of_scores()),
        primal_(p, scratch),
        t_query_(p, p.t_query, p.width, scratch),
        t_key_(p, p.t_key, p.width, scratch),
        t_value_(p, has_d_scores_ ? p.t_value : FeatureMap{}, p.value_width, scratch),
        t_grad_(p, p.t_grad, p.value_width, scratch),
        t_tile_(p, 1, has_t_scores_, scratch),
        t_d_tile_(p, 1, has_d_scores_, scratch),
        t_untransposed_(p, 1, has_t_scores_ && static_cast<bool>(p.d.value), scratch),
        t_d_untransposed_(p, 1, static_cast<bool>(p.d.key), scratch),
        d_(p, p.primal_d, 1, scratch),
        t_d_(p, p.d, p.tangents, scratch),
        t_bias_(p, p.t_table, scratch) {}

  void run(const WindowTask& task) {
    primal_.begin();
    t_tile_.clear();
    t_d_tile_.clear();
    d_.begin(task);
    t_d_.begin(task);
    task.for_blocks(p_, [&](const Block& block) { run(task, block); });
    d_.end();
    t_d_.end();
  }

 private:
  void run(const WindowTask& task, const Block& block) {
    primal_.load(block);
    for (int64_t t = 0; t < p_.tangents; ++t) {
      t_query_.load(block, t);
      t_key_.load(block, t);
      t_value_.load(block, t);
      t_grad_.load(block, t);
      for (int64_t k = 0; k < block.count; ++k) {
        if (t == 0) run_primal(task, block.window(k), k);
        run(task, block.window(k), k, t);
      }
      t_d_.write(block, t);
    }
    d_.write(block);
  }

  void run_primal(const WindowTask& task, const Window& window, int64_t k) {
    primal_.compute(task, k, window);
    d_.multiply_into(primal_, k, window);
  }

  void run(const WindowTask& task, const Window& window, int64_t k, int64_t t) {
    const int64_t tokens = window.tokens();
    products(k, tokens);
    sweeps(task, window, k, t);
    if (t_d_.query) accumulate_query(k, tokens);
    if (t_d_.key) accumulate_key(k, tokens);
    if (t_d_.value) accumulate_value(k, tokens);
    if (t_d_.table) t_d_.table.add(window, t_d_tile_.tile(), t);
  }

  /// S'^T and dP'^T.
  void products(int64_t k, int64_t tokens) {
    if (has_t_scores_) multiply_score_tangent(p_, primal_.probabilities, t_query_, t_key_, k, tokens, t_tile_);
    if (!has_d_scores_) return;
    Term<Real> terms[2];
    int count = 0;
    if (t_value_) terms[count++] = {t_value_.rows(k), primal_.grad.panels(k)};
    if (t_grad_) terms[count++] = {primal_.value.rows(k), t_grad_.panels(k)};
    t_d_tile_.multiply_into(0, tokens, p_.value_width, terms, count);
  }

  /// P'^T and dS'^T.
  void sweeps(const WindowTask& task, const Window& window, int64_t k, int64_t t) {
    const int64_t tokens = window.tokens(), stride = t_d_tile_.stride();
    const Real* const p = primal_.probabilities.tiles().tile(k);
    const auto scale = static_cast<Real>(p_.scale);
    if (has_t_scores_ && has_d_scores_)
      score_gradient_tangent<Real>(p, primal_.d_scores.tile(k), t_tile_.tile(), t_d_tile_.tile(),
                                   t_bias_.of(task, window, t), scale, tokens, stride);
    else if (has_t_scores_)
      softmax_tangent<Real>(p, t_tile_.tile(), t_bias_.of(task, window, t), scale, tokens, stride);
    else if (has_d_scores_)
      score_gradient<Real>(p, t_d_tile_.tile(), tokens, stride);
  }

  void accumulate_query(int64_t k, int64_t tokens) {
    Term<Real> terms[2]{{primal_.probabilities.key.rows(k), t_d_tile_.panels()}};
    if (t_key_) terms[1] = {t_key_.rows(k), primal_.d_scores.panels(k)};
    t_d_.query.multiply_into(k, tokens, terms, t_key_ ? 2 : 1);
  }

  void accumulate_key(int64_t k, int64_t tokens) {
    t_d_untransposed_.transpose_of(t_d_tile_, 0, 0, tokens);
    Term<Real> terms[2]{{primal_.probabilities.query.rows(k), t_d_untransposed_.panels()}};
    if (t_query_) terms[1] = {t_query_.rows(k), primal_.d_untransposed.panels(k)};
    t_d_.key.multiply_into(k, tokens, terms, t_query_ ? 2 : 1);
  }

  void accumulate_value(int64_t k, int64_t tokens) {
    Term<Real> terms[2];
    int count = 0;
    if (has_t_scores_) {
      t_untransposed_.transpose_of(t_tile_, 0, 0, tokens);
      terms[count++] = {primal_.grad.rows(k), t_untransposed_.panels()};
    }
    if (t_grad_) terms[count++] = {t_grad_.rows(k), primal_.untransposed.panels(k)};
    t_d_.value.multiply_into(k, tokens, terms, count);
  }

  const WindowProblem& p_;
  bool has_t_scores_, has_d_scores_;
  ScoreGradients<Real> primal_;
  Planes<Real> t_query_, t_key_, t_value_, t_grad_;
  Tiles<Real> t_tile_, t_d_tile_, t_untransposed_, t_d_untransposed_;
  GradientPlanes<Real> d_, t_d_;
  BiasTile<Real> t_bias_;
};

}  // namespace alternet::ALTERNET_ISA
