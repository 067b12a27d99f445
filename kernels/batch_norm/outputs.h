// Batch normalisation: forward and tangent, a channel at a time. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "batch_norm/channel.h"

namespace alternet::ALTERNET_ISA {

/// y = act(weight x̂ + bias) with x̂ = (x - mean) rstd.
template <typename Real>
class BatchNormForward {
 public:
  BatchNormForward(const BatchNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p), c_(p, task), x_(p.x, p.width, scratch), y_(p.r_y, p.width, scratch) {}

  void run() {
    if (p_.training) measure();
    else c_.load_statistics();
    set_scalar<Real>(p_.r_mean, 0, c_.g, c_.c, c_.mean);
    set_scalar<Real>(p_.r_var, 0, c_.g, c_.c, c_.var);
    run_activation(p_.relu, *this);
  }

  template <bool RELU>
  void channel() {
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real* x = x_.row(0, c_.g, c_.row(b));
      Real* y = y_.row(0, c_.g, c_.row(b));
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> v = c_.before_activation(c_.normal(at.load(x)));
        at.store(y, RELU ? where<Real>(v <= Real(0), Vector<Real>{}, v) : v);  // NaN stays
      });
      y_.finish(0, c_.g, c_.row(b));
    }
  }

 private:
  /// Sums of a row in the arithmetic type, of rows in double.
  void measure() {
    double total = 0, squares = 0;
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real* x = x_.row(0, c_.g, c_.row(b));
      Vector<Real> part{};
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY { part += at.load(x); });
      total += sum<Real>(part);
    }
    const Real mean = static_cast<Real>(total / p_.count());
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real* x = x_.row(0, c_.g, c_.row(b));
      Vector<Real> part{};
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> centred = at.only(at.load(x) - mean);
        part += centred * centred;
      });
      squares += sum<Real>(part);
    }
    c_.set_statistics(mean, static_cast<Real>(squares / p_.count()));
  }

  const BatchNormProblem& p_;
  Channel<Real> c_;
  RowReader<Real> x_;
  RowWriter<Real> y_;
};

/// y' = act'(y) (weight' x̂ + weight x̂' + bias') with x̂' = rstd (x' - mean') + x̂ rstd' / rstd.
template <typename Real>
class BatchNormTangent {
 public:
  BatchNormTangent(const BatchNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        c_(p, task),
        x_(p.x, p.width, scratch),
        t_x_(p.t_x, p.width, scratch),
        t_y_(p.r_y, p.width, scratch) {}

  void run() {
    c_.load_statistics();
    run_activation(p_.relu, *this);
  }

  template <bool RELU>
  void channel() {
    for (int64_t t = 0; t < p_.tangents; ++t) {
      Real t_mean = 0, t_var = 0;
      if (p_.training && p_.t_x) measure(t, t_mean, t_var);
      set_scalar<Real>(p_.r_mean, t, c_.g, c_.c, t_mean);
      set_scalar<Real>(p_.r_var, t, c_.g, c_.c, t_var);
      write<RELU>(t, t_mean, c_.growth(t_var));
    }
  }

 private:
  void measure(int64_t t, Real& t_mean, Real& t_var) const {
    double total = 0, product = 0;
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real *x = x_.row(0, c_.g, c_.row(b)), *t_x = t_x_.row(t, c_.g, c_.row(b));
      Vector<Real> part{}, part_product{};
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        part += at.load(t_x);
        part_product += c_.normal(at.load(x)) * at.load(t_x);
      });
      total += sum<Real>(part);
      product += sum<Real>(part_product);
    }
    t_mean = static_cast<Real>(total / p_.count());
    t_var = static_cast<Real>(2 * product / p_.count() / c_.rstd);
  }

  template <bool RELU>
  void write(int64_t t, Real t_mean, Real growth) const {
    const Real t_weight = scalar<Real>(p_.t_weight, t, c_.g, c_.c), t_bias = scalar<Real>(p_.t_bias, t, c_.g, c_.c);
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real *x = x_.row(0, c_.g, c_.row(b)), *t_x = t_x_.row(t, c_.g, c_.row(b));
      Real* t_y = t_y_.row(t, c_.g, c_.row(b));
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> normal = c_.normal(at.load(x));
        const Vector<Real> t_normal = (at.load(t_x) - t_mean) * c_.rstd + normal * growth;
        at.store(t_y, c_.template passed<RELU>(normal * t_weight + t_normal * c_.weight + t_bias, normal));
      });
      t_y_.finish(t, c_.g, c_.row(b));
    }
  }

  const BatchNormProblem& p_;
  Channel<Real> c_;
  RowReader<Real> x_, t_x_;
  RowWriter<Real> t_y_;
};

}  // namespace alternet::ALTERNET_ISA
