// Layer normalisation: backward and its tangent, a row at a time; README.md derives the formulas. Included once per
// instruction set (see csrc/vector.h).
#pragma once

#include "csrc/row_access.h"
#include "csrc/sweep.h"
#include "layer_norm/problem.h"

namespace alternet::ALTERNET_ISA {

/// The sums over a row of a = weight g and of a x̂.
template <typename Real>
ALTERNET_INLINE Terms<Real, 2> gradient_sums(const Real* x, const Real* weight, const Real* grad, Real mean, Real rstd,
                                             int64_t width) {
  return column_sums<2, Real>(width, [&](auto at) ALTERNET_BODY {
    const Vector<Real> a = at.load(weight) * at.load(grad);
    return Terms<Vector<Real>, 2>{{a, a * ((at.load(x) - mean) * rstd)}};
  });
}

/// With a = weight g: d_x = rstd (a - mean(a) - x̂ mean(a x̂)), d_weight = sum g x̂, d_bias = sum g.
template <typename Real>
class LayerNormBackward {
 public:
  LayerNormBackward(const LayerNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        weight_(p.weight, p.width, scratch, 1),
        grad_(p.grad, p.width, scratch),
        d_x_(p.d_x, p.width, scratch),
        d_weight_(p.d_weight, p, task, scratch),
        d_bias_(p.d_bias, p, task, scratch) {}

  void run() {
    const Real* weight = weight_.row(0, task_.b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      row(weight, i);
      d_weight_.row_done();
      d_bias_.row_done();
    }
    d_weight_.flush();
    d_bias_.flush();
  }

 private:
  void row(const Real* weight, int64_t i) const {
    const int64_t b = task_.b;
    const Real mean = p_.mean.scalar<Real>(0, b, i), rstd = p_.rstd.scalar<Real>(0, b, i);
    const Real *x = x_.row(0, b, i), *grad = grad_.row(0, b, i);
    Real *d_x = d_x_.row(0, b, i), *d_weight = d_weight_.block(), *d_bias = d_bias_.block();

    const auto sums = gradient_sums(x, weight, grad, mean, rstd, p_.width);
    const Real m_a = sums.term[0] / p_.width, m_ax = sums.term[1] / p_.width;
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> g = at.load(grad), normal = (at.load(x) - mean) * rstd;
      at.store(d_x, (at.load(weight) * g - m_a - normal * m_ax) * rstd);
      if (d_weight) at.add(d_weight, g * normal);
      if (d_bias) at.add(d_bias, g);
    });
    d_x_.finish(0, b, i);
  }

  const LayerNormProblem& p_;
  RowTask task_;
  RowReader<Real> x_, weight_, grad_;
  RowWriter<Real> d_x_;
  ColumnSums<Real> d_weight_, d_bias_;
};

/// The tangent of `LayerNormBackward`.
template <typename Real>
class LayerNormBackwardTangent {
 public:
  LayerNormBackwardTangent(const LayerNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        weight_(p.weight, p.width, scratch, 1),
        grad_(p.grad, p.width, scratch),
        t_x_(p.t_x, p.width, scratch),
        t_weight_(p.t_weight, p.width, scratch),
        t_grad_(p.t_grad, p.width, scratch),
        t_d_x_(p.d_x, p.width, scratch),
        t_d_weight_(p.d_weight, p, task, scratch),
        t_d_bias_(p.d_bias, p, task, scratch) {}

  void run() {
    const int64_t b = task_.b;
    for (int64_t i = task_.first; i < task_.last; ++i) {
      Primal primal{x_.row(0, b, i), weight_.row(0, b, 0), grad_.row(0, b, i), p_.mean.scalar<Real>(0, b, i),
                    p_.rstd.scalar<Real>(0, b, i)};
      primal.reduce(p_.width);
      for (int64_t t = 0; t < p_.tangents; ++t) row(primal, t, i);
      t_d_weight_.row_done();
      t_d_bias_.row_done();
    }
    t_d_weight_.flush();
    t_d_bias_.flush();
  }

 private:
  /// A row of what all tangents share.
  struct Primal {
    const Real *x, *weight, *grad;
    Real mean, rstd;
    Real m_a = 0, m_ax = 0;  // mean(a), mean(a x̂)

    void reduce(int64_t width) {
      const auto sums = gradient_sums(x, weight, grad, mean, rstd, width);
      m_a = sums.term[0] / width;
      m_ax = sums.term[1] / width;
    }
  };

  void row(const Primal& primal, int64_t t, int64_t i) const {
    const int64_t b = task_.b;
    const Real *x = primal.x, *weight = primal.weight, *grad = primal.grad;
    const Real mean = primal.mean, rstd = primal.rstd, m_a = primal.m_a, m_ax = primal.m_ax;
    const Real *t_x = t_x_.row(t, b, i), *t_weight = t_weight_.row(t, b, 0), *t_grad = t_grad_.row(t, b, i);
    Real *t_d_x = t_d_x_.row(t, b, i), *t_d_weight = t_d_weight_.block(t), *t_d_bias = t_d_bias_.block(t);
    const Real t_mean = p_.t_mean ? p_.t_mean.scalar<Real>(t, b, i) : Real(0);
    const Real growth = p_.t_rstd ? p_.t_rstd.scalar<Real>(t, b, i) / rstd : Real(0);

    const auto sums = column_sums<2, Real>(p_.width, [&](auto at) ALTERNET_BODY {  // a', (a x̂)'
      const Vector<Real> g = at.load(grad), w = at.load(weight);
      const Vector<Real> normal = (at.load(x) - mean) * rstd;
      const Vector<Real> t_normal = (at.load(t_x) - t_mean) * rstd + normal * growth;
      const Vector<Real> t_a = at.load(t_weight) * g + w * at.load(t_grad);
      return Terms<Vector<Real>, 2>{{t_a, t_a * normal + w * g * t_normal}};
    });
    const Real m_ta = sums.term[0] / p_.width, m_tax = sums.term[1] / p_.width;
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> g = at.load(grad), w = at.load(weight), t_g = at.load(t_grad);
      const Vector<Real> normal = (at.load(x) - mean) * rstd;
      const Vector<Real> t_normal = (at.load(t_x) - t_mean) * rstd + normal * growth;
      const Vector<Real> centred = w * g - m_a - normal * m_ax;
      const Vector<Real> t_centred = at.load(t_weight) * g + w * t_g - m_ta - t_normal * m_ax - normal * m_tax;
      at.store(t_d_x, (t_centred + centred * growth) * rstd);
      if (t_d_weight) at.add(t_d_weight, t_g * normal + g * t_normal);
      if (t_d_bias) at.add(t_d_bias, t_g);
    });
    t_d_x_.finish(t, b, i);
  }

  const LayerNormProblem& p_;
  RowTask task_;
  RowReader<Real> x_, weight_, grad_, t_x_, t_weight_, t_grad_;
  RowWriter<Real> t_d_x_;
  ColumnSums<Real> t_d_weight_, t_d_bias_;
};

}  // namespace alternet::ALTERNET_ISA
