// Cross-entropy: backward and its tangent, a row at a time; README.md derives the formulas. Included once per
// instruction set (see csrc/vector.h).
#pragma once

#include "cross_entropy/problem.h"
#include "csrc/exponential.h"
#include "csrc/row_access.h"
#include "csrc/sweep.h"

namespace alternet::ALTERNET_ISA {

/// The sum of a row.
template <typename Real>
ALTERNET_INLINE Real row_sum(const Real* row, int64_t width) {
  Vector<Real> total{};
  sweep<Real>(width, [&](auto at) ALTERNET_BODY { total += at.load(row); });
  return sum<Real>(total);
}

/// d_z = g (s p - q) with p = exp(z - lse) and s = sum q; d_target = kept g (lse - z).
template <typename Real>
class CrossEntropyBackward {
 public:
  CrossEntropyBackward(const CrossEntropyProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        logits_(p.logits, p.width, scratch),
        target_(p.target, p.width, scratch),
        d_logits_(p.d_logits, p.width, scratch),
        d_target_(p.d_target, p.width, scratch) {}

  void run() {
    for (int64_t i = task_.first; i < task_.last; ++i) row(i);
  }

 private:
  void row(int64_t i) const {
    const int64_t b = task_.b;
    const Real kept = static_cast<Real>(p_.kept), spread = static_cast<Real>(p_.spread);
    const Real *z = logits_.row(0, b, i), *target = target_.row(0, b, i);
    Real *d_z = d_logits_.row(0, b, i), *d_target = d_target_.row(0, b, i);
    const Real lse = p_.lse.scalar<Real>(0, b, i);
    const Real g = p_.ignored(b, i) ? Real(0) : p_.grad.scalar<Real>(0, b, i);
    const Real total = p_.index ? Real(1) : kept * row_sum(target, p_.width) + spread * p_.width;
    const bool wants_target = static_cast<bool>(p_.d_target);
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> slack = lse - at.load(z), q = at.load(target) * kept + spread;
      at.store(d_z, (exponential<Real>(-slack) * total - q) * g);
      if (wants_target) at.store(d_target, slack * (kept * g));
    });
    if (p_.index && g != 0) d_z[p_.index[b * p_.rows + i]] -= kept * g;
    d_logits_.finish(0, b, i);
    d_target_.finish(0, b, i);
  }

  const CrossEntropyProblem& p_;
  RowTask task_;
  RowReader<Real> logits_, target_;
  RowWriter<Real> d_logits_, d_target_;
};

/// The tangent of `CrossEntropyBackward`.
template <typename Real>
class CrossEntropyBackwardTangent {
 public:
  CrossEntropyBackwardTangent(const CrossEntropyProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        logits_(p.logits, p.width, scratch),
        target_(p.target, p.width, scratch),
        t_logits_(p.t_logits, p.width, scratch),
        t_target_(p.t_target, p.width, scratch),
        t_d_logits_(p.d_logits, p.width, scratch),
        t_d_target_(p.d_target, p.width, scratch),
        softmax_(scratch.take<Real>(p.width)) {}

  void run() {
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const Real *z = logits_.row(0, task_.b, i), *target = target_.row(0, task_.b, i);
      const Real lse = p_.lse.scalar<Real>(0, task_.b, i);
      const Real all = p_.index ? Real(1) : static_cast<Real>(p_.kept) * row_sum(target, p_.width) +
                                                static_cast<Real>(p_.spread) * p_.width;
      sweep<Real>(p_.width, [&](auto at)
                                ALTERNET_BODY { at.store(softmax_, exponential<Real>(at.load(z) - lse)); });
      for (int64_t t = 0; t < p_.tangents; ++t) row(z, target, lse, all, t, i);
    }
  }

 private:
  void row(const Real* z, const Real* target, Real lse, Real all, int64_t t, int64_t i) const {
    const int64_t b = task_.b;
    const bool ignored = p_.ignored(b, i), wants_target = static_cast<bool>(p_.d_target);
    const Real kept = static_cast<Real>(p_.kept), spread = static_cast<Real>(p_.spread);
    const Real *t_z = t_logits_.row(t, b, i), *t_target = t_target_.row(t, b, i);
    Real *t_d_z = t_d_logits_.row(t, b, i), *t_d_target = t_d_target_.row(t, b, i);
    const Real t_lse = p_.t_lse ? p_.t_lse.scalar<Real>(t, b, i) : Real(0);
    const Real g = ignored ? Real(0) : p_.grad.scalar<Real>(0, b, i);
    const Real t_g = ignored || !p_.t_grad ? Real(0) : p_.t_grad.scalar<Real>(t, b, i);
    const Real t_all = p_.t_target ? kept * row_sum(t_target, p_.width) : Real(0);
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> softmax = at.load(softmax_), q = at.load(target) * kept + spread;
      const Vector<Real> t_slack = t_lse - at.load(t_z);
      const Vector<Real> moved = softmax * t_all - softmax * all * t_slack - at.load(t_target) * kept;
      at.store(t_d_z, (softmax * all - q) * t_g + moved * g);
      if (wants_target) at.store(t_d_target, ((lse - at.load(z)) * t_g + t_slack * g) * kept);
    });
    if (p_.index && t_g != 0) t_d_z[p_.index[b * p_.rows + i]] -= kept * t_g;
    t_d_logits_.finish(t, b, i);
    t_d_target_.finish(t, b, i);
  }

  const CrossEntropyProblem& p_;
  RowTask task_;
  RowReader<Real> logits_, target_, t_logits_, t_target_;
  RowWriter<Real> t_d_logits_, t_d_target_;
  Real* softmax_;
};

}  // namespace alternet::ALTERNET_ISA
