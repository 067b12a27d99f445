// Layer normalisation: forward and tangent, a row at a time. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "csrc/row_access.h"
#include "csrc/sweep.h"
#include "layer_norm/problem.h"

namespace alternet::ALTERNET_ISA {

/// y = weight x̂ + bias with x̂ = (x - mean) rstd.
template <typename Real>
class LayerNormForward {
 public:
  LayerNormForward(const LayerNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        weight_(p.weight, p.width, scratch, 1),
        bias_(p.bias, p.width, scratch),
        y_(p.r_y, p.width, scratch) {}

  void run() {
    const int64_t b = task_.b;
    const Real *weight = weight_.row(0, b, 0), *bias = bias_.row(0, b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const Real* x = x_.row(0, b, i);
      Real* y = y_.row(0, b, i);
      const Real mean = mean_of(x), rstd = rstd_of(x, mean);
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        at.store(y, (at.load(x) - mean) * rstd * at.load(weight) + at.load(bias));
      });
      y_.finish(0, b, i);
      p_.r_mean.scalar<Real>(0, b, i) = mean;
      p_.r_rstd.scalar<Real>(0, b, i) = rstd;
    }
  }

 private:
  Real mean_of(const Real* x) const {
    const auto sums = column_sums<1, Real>(p_.width, [&](auto at) ALTERNET_BODY {
      return Terms<Vector<Real>, 1>{{at.load(x)}};
    });
    return sums.term[0] / p_.width;
  }

  Real rstd_of(const Real* x, Real mean) const {
    const auto squares = column_sums<1, Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> centred = at.only(at.load(x) - mean);
      return Terms<Vector<Real>, 1>{{centred * centred}};
    });
    return Real(1) / std::sqrt(squares.term[0] / p_.width + static_cast<Real>(p_.eps));
  }

  const LayerNormProblem& p_;
  RowTask task_;
  RowReader<Real> x_, weight_, bias_;
  RowWriter<Real> y_;
};

/// y' = weight' x̂ + weight x̂' + bias' with x̂' = rstd (x' - mean') + x̂ rstd' / rstd.
template <typename Real>
class LayerNormTangent {
 public:
  LayerNormTangent(const LayerNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        weight_(p.weight, p.width, scratch, 1),
        t_x_(p.t_x, p.width, scratch),
        t_weight_(p.t_weight, p.width, scratch),
        t_bias_(p.t_bias, p.width, scratch),
        t_y_(p.r_y, p.width, scratch) {}

  void run() {
    const int64_t b = task_.b;
    weight_row_ = weight_.row(0, b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const Real* x = x_.row(0, b, i);
      for (int64_t t = 0; t < p_.tangents; ++t) row(x, t, i);
    }
  }

 private:
  void row(const Real* x, int64_t t, int64_t i) const {
    const int64_t b = task_.b;
    const Real mean = p_.mean.scalar<Real>(0, b, i), rstd = p_.rstd.scalar<Real>(0, b, i);
    const Real *weight = weight_row_, *t_x = t_x_.row(t, b, i);
    const Real *t_weight = t_weight_.row(t, b, 0), *t_bias = t_bias_.row(t, b, 0);
    Real* t_y = t_y_.row(t, b, i);

    const auto sums = column_sums<2, Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> dx = at.load(t_x);
      return Terms<Vector<Real>, 2>{{dx, dx * (at.load(x) - mean)}};
    });
    const Real t_mean = sums.term[0] / p_.width;
    const Real growth = -rstd * rstd * (sums.term[1] / p_.width);  // rstd' / rstd
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> normal = (at.load(x) - mean) * rstd;
      const Vector<Real> t_normal = (at.load(t_x) - t_mean) * rstd + normal * growth;
      at.store(t_y, at.load(t_weight) * normal + at.load(weight) * t_normal + at.load(t_bias));
    });
    t_y_.finish(t, b, i);
    p_.r_mean.scalar<Real>(t, b, i) = t_mean;
    p_.r_rstd.scalar<Real>(t, b, i) = growth * rstd;
  }

  const LayerNormProblem& p_;
  RowTask task_;
  RowReader<Real> x_, weight_, t_x_, t_weight_, t_bias_;
  RowWriter<Real> t_y_;
  const Real* weight_row_ = nullptr;
};

}  // namespace alternet::ALTERNET_ISA
