// Cross-entropy: forward and tangent, a row at a time. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "cross_entropy/problem.h"
#include "csrc/exponential.h"
#include "csrc/row_access.h"
#include "csrc/sweep.h"

namespace alternet::ALTERNET_ISA {

/// loss = sum over classes of q (lse - z).
template <typename Real>
class CrossEntropyForward {
 public:
  CrossEntropyForward(const CrossEntropyProblem& p, int64_t task, Scratch& scratch)
      : p_(p), task_(p, task), logits_(p.logits, p.width, scratch), target_(p.target, p.width, scratch) {}

  void run() {
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const Real* z = logits_.row(0, task_.b, i);
      const Real lse = log_sum_exp(z);
      p_.r_lse.scalar<Real>(0, task_.b, i) = lse;
      p_.r_loss.scalar<Real>(0, task_.b, i) = loss(z, lse, i);
    }
  }

 private:
  Real log_sum_exp(const Real* z) const {
    constexpr Real lowest = -std::numeric_limits<Real>::infinity();
    Vector<Real> highest = splat(lowest), total{};
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY { highest = Max::combine(at.only(at.load(z), lowest), highest); });
    const Real top = reduce<Max, Real>(highest);
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY { total += at.only(exponential<Real>(at.load(z) - top)); });
    return top + std::log(sum<Real>(total));
  }

  Real loss(const Real* z, Real lse, int64_t i) const {
    if (p_.ignored(task_.b, i)) return 0;
    const Real kept = static_cast<Real>(p_.kept), spread = static_cast<Real>(p_.spread);
    Real result = p_.index ? kept * (lse - z[p_.index[task_.b * p_.rows + i]]) : Real(0);
    if (p_.index && p_.spread == 0) return result;  // classes of weight 0 may have infinite terms
    const Real* target = target_.row(0, task_.b, i);
    Vector<Real> total{};
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
      total += at.only((at.load(target) * kept + spread) * (lse - at.load(z)));
    });
    return result + sum<Real>(total);
  }

  const CrossEntropyProblem& p_;
  RowTask task_;
  RowReader<Real> logits_, target_;
};

/// lse' = sum p z', loss' = sum q (lse' - z') + q' (lse - z), with p = exp(z - lse).
template <typename Real>
class CrossEntropyTangent {
 public:
  CrossEntropyTangent(const CrossEntropyProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        logits_(p.logits, p.width, scratch),
        target_(p.target, p.width, scratch),
        t_logits_(p.t_logits, p.width, scratch),
        t_target_(p.t_target, p.width, scratch),
        softmax_(scratch.take<Real>(p.width)) {}

  void run() {
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const Real *z = logits_.row(0, task_.b, i), *target = target_.row(0, task_.b, i);
      const Real lse = p_.lse.scalar<Real>(0, task_.b, i);
      sweep<Real>(p_.width, [&](auto at)
                                ALTERNET_BODY { at.store(softmax_, exponential<Real>(at.load(z) - lse)); });
      for (int64_t t = 0; t < p_.tangents; ++t) row(z, target, lse, t, i);
    }
  }

 private:
  void row(const Real* z, const Real* target, Real lse, int64_t t, int64_t i) const {
    const int64_t b = task_.b;
    const Real *t_z = t_logits_.row(t, b, i), *t_target = t_target_.row(t, b, i);
    const Real kept = static_cast<Real>(p_.kept), spread = static_cast<Real>(p_.spread);
    Vector<Real> slope{}, total{};
    sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY { slope += at.load(softmax_) * at.load(t_z); });
    const Real t_lse = sum<Real>(slope);
    Real result = 0;
    if (!p_.index || p_.spread != 0) {
      const bool moves = static_cast<bool>(p_.t_target);
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        total += at.only((at.load(target) * kept + spread) * (t_lse - at.load(t_z)));
        if (moves) total += at.only(at.load(t_target) * kept * (lse - at.load(z)));
      });
      result = sum<Real>(total);
    }
    if (p_.ignored(b, i)) result = 0;
    else if (p_.index) result += kept * (t_lse - t_z[p_.index[b * p_.rows + i]]);
    p_.r_lse.scalar<Real>(t, b, i) = t_lse;
    p_.r_loss.scalar<Real>(t, b, i) = result;
  }

  const CrossEntropyProblem& p_;
  RowTask task_;
  RowReader<Real> logits_, target_, t_logits_, t_target_;
  Real* softmax_;
};

}  // namespace alternet::ALTERNET_ISA
