// Window attention: forward and tangent, a strip of windows at a time. Included once per instruction set (see
// csrc/vector.h).
#pragma once

#include "window_attention/positions.h"
#include "window_attention/sweeps.h"

namespace alternet::ALTERNET_ISA {

/// P^T of each window of a block: what every map starts from.
template <typename Real>
class Probabilities {
 public:
  Probabilities(const WindowProblem& p, Carver& scratch)
      : query(p, p.query, p.width, scratch),
        key(p, p.key, p.width, scratch),
        p_(p),
        tiles_(p, kept_tiles(p), true, scratch),
        bias_(p, p.table, scratch) {}

  void begin() { tiles_.clear(); }

  void load(const Block& block) {
    query.load(block);
    key.load(block);
  }

  void compute(const WindowTask& task, int64_t k, const Window& window) {
    const Term<Real> kq{key.rows(k), query.panels(k)};
    tiles_.multiply_into(k, window.tokens(), p_.width, &kq, 1);
    softmax<Real>(tiles_.tile(k), bias_.of(task, window), static_cast<Real>(p_.scale), window.tokens(),
                  tiles_.stride());
  }

  const Tiles<Real>& tiles() const { return tiles_; }

  Planes<Real> query, key;

 private:
  const WindowProblem& p_;
  Tiles<Real> tiles_;
  BiasTile<Real> bias_;
};

/// S'^T = K'^T Q + K^T Q', before scale and bias; into tile 0 of `tiles`.
template <typename Real>
void multiply_score_tangent(const WindowProblem& p, const Probabilities<Real>& primal, const Planes<Real>& t_query,
                            const Planes<Real>& t_key, int64_t k, int64_t tokens, Tiles<Real>& tiles) {
  Term<Real> terms[2];
  int count = 0;
  if (t_key) terms[count++] = {t_key.rows(k), primal.query.panels(k)};
  if (t_query) terms[count++] = {primal.key.rows(k), t_query.panels(k)};
  tiles.multiply_into(0, tokens, p.width, terms, count);
}

/// out^T = V^T P^T.
template <typename Real>
void multiply_output(const Planes<Real>& value, const Tiles<Real>& probabilities, int64_t k, int64_t tokens,
                     Planes<Real>& out) {
  const Term<Real> vp{value.rows(k), probabilities.panels(k)};
  out.multiply_into(k, tokens, &vp, 1);
}

template <typename Real>
class WindowForward {
 public:
  WindowForward(const WindowProblem& p, Carver& scratch)
      : p_(p), probabilities_(p, scratch), value_(p, p.value, p.value_width, scratch),
        out_(p, p.r_out, p.value_width, scratch) {}

  void run(const WindowTask& task) {
    probabilities_.begin();
    task.for_blocks(p_, [&](const Block& block) { run(task, block); });
  }

 private:
  void run(const WindowTask& task, const Block& block) {
    probabilities_.load(block);
    value_.load(block);
    for (int64_t k = 0; k < block.count; ++k) {
      const Window window = block.window(k);
      probabilities_.compute(task, k, window);
      multiply_output(value_, probabilities_.tiles(), k, window.tokens(), out_);
    }
    out_.write(block, 1);
  }

  const WindowProblem& p_;
  Probabilities<Real> probabilities_;
  Planes<Real> value_, out_;
};

/// out'^T = V^T P'^T + V'^T P^T; also out where it is asked for.
template <typename Real>
class WindowTangent {
 public:
  WindowTangent(const WindowProblem& p, Carver& scratch)
      : p_(p), probabilities_(p, scratch), value_(p, p.value, p.value_width, scratch),
        t_query_(p, p.t_query, p.width, scratch),
        t_key_(p, p.t_key, p.width, scratch),
        t_value_(p, p.t_value, p.value_width, scratch),
        out_(p, p.primal_out, p.value_width, scratch),
        t_out_(p, p.r_out, p.value_width, scratch),
        t_tile_(p, 1, p.has_score_tangent(), scratch),
        t_bias_(p, p.t_table, scratch) {}

  void run(const WindowTask& task) {
    probabilities_.begin();
    task.for_blocks(p_, [&](const Block& block) { run(task, block); });
  }

 private:
  void run(const WindowTask& task, const Block& block) {
    probabilities_.load(block);
    value_.load(block);
    for (int64_t t = 0; t < p_.tangents; ++t) {
      t_query_.load(block, t);
      t_key_.load(block, t);
      t_value_.load(block, t);
      for (int64_t k = 0; k < block.count; ++k) {
        if (t == 0) run_primal(task, block.window(k), k);
        run(task, block.window(k), k, t);
      }
      t_out_.write(block, 1, t);
    }
    out_.write(block, 1);
  }

  void run_primal(const WindowTask& task, const Window& window, int64_t k) {
    probabilities_.compute(task, k, window);
    if (out_) multiply_output(value_, probabilities_.tiles(), k, window.tokens(), out_);
  }

  void run(const WindowTask& task, const Window& window, int64_t k, int64_t t) {
    const int64_t tokens = window.tokens();
    Term<Real> terms[2];
    int count = 0;
    if (p_.has_score_tangent()) {
      multiply_score_tangent(p_, probabilities_, t_query_, t_key_, k, tokens, t_tile_);
      softmax_tangent<Real>(probabilities_.tiles().tile(k), t_tile_.tile(), t_bias_.of(task, window, t),
                            static_cast<Real>(p_.scale), tokens, t_tile_.stride());
      terms[count++] = {value_.rows(k), t_tile_.panels()};
    }
    if (t_value_) terms[count++] = {t_value_.rows(k), probabilities_.tiles().panels(k)};
    t_out_.multiply_into(k, tokens, terms, count);
  }

  const WindowProblem& p_;
  Probabilities<Real> probabilities_;
  Planes<Real> value_, t_query_, t_key_, t_value_, out_, t_out_;
  Tiles<Real> t_tile_;
  BiasTile<Real> t_bias_;
};

}  // namespace alternet::ALTERNET_ISA
