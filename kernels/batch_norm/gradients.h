// Batch normalisation: backward and its tangent, a channel at a time; README.md derives the formulas. Included once per
// instruction set (see csrc/vector.h).
#pragma once

#include "batch_norm/channel.h"

namespace alternet::ALTERNET_ISA {

/// Sums over a channel, of a gradient h that the activation let pass: sum h and sum h x̂.
struct ChannelSums {
  double total = 0, product = 0;
};

template <bool RELU, typename Real>
ChannelSums gradient_sums(const Channel<Real>& c, const RowReader<Real>& x_rows, const RowReader<Real>& grad_rows) {
  ChannelSums sums;
  for (int64_t b = 0; b < c.p.samples; ++b) {
    const Real *x = x_rows.row(0, c.g, c.row(b)), *grad = grad_rows.row(0, c.g, c.row(b));
    Vector<Real> part{}, part_product{};
    sweep<Real>(c.p.width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> normal = c.normal(at.load(x));
      const Vector<Real> h = c.template passed<RELU>(at.load(grad), normal);
      part += h;
      part_product += h * normal;
    });
    sums.total += sum<Real>(part);
    sums.product += sum<Real>(part_product);
  }
  return sums;
}

/// With h = act'(y) g: d_x = weight rstd (h - mean(h) - x̂ mean(h x̂)), d_weight = sum h x̂, d_bias = sum h. Constant
/// statistics have no means.
template <typename Real>
class BatchNormBackward {
 public:
  BatchNormBackward(const BatchNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        c_(p, task),
        x_(p.x, p.width, scratch),
        grad_(p.grad, p.width, scratch),
        d_x_(p.d_x, p.width, scratch) {}

  void run() {
    c_.load_statistics();
    run_activation(p_.relu, *this);
  }

  template <bool RELU>
  void channel() {
    ChannelSums sums;
    if (p_.training || p_.d_weight || p_.d_bias) sums = gradient_sums<RELU>(c_, x_, grad_);
    set_scalar<Real>(p_.d_weight, 0, c_.g, c_.c, sums.product);
    set_scalar<Real>(p_.d_bias, 0, c_.g, c_.c, sums.total);
    if (!p_.d_x) return;
    const bool training = p_.training;
    const double share = 1 / p_.count();
    const Real m_h = static_cast<Real>(sums.total * share), m_hx = static_cast<Real>(sums.product * share);
    const Real scale = c_.weight * c_.rstd;
    for (int64_t b = 0; b < p_.samples; ++b) {
      const Real *x = x_.row(0, c_.g, c_.row(b)), *grad = grad_.row(0, c_.g, c_.row(b));
      Real* d_x = d_x_.row(0, c_.g, c_.row(b));
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> normal = c_.normal(at.load(x));
        const Vector<Real> h = c_.template passed<RELU>(at.load(grad), normal);
        at.store(d_x, (training ? h - m_h - normal * m_hx : h) * scale);
      });
      d_x_.finish(0, c_.g, c_.row(b));
    }
  }

 private:
  const BatchNormProblem& p_;
  Channel<Real> c_;
  RowReader<Real> x_, grad_;
  RowWriter<Real> d_x_;
};

/// The tangent of `BatchNormBackward`.
template <typename Real>
class BatchNormBackwardTangent {
 public:
  BatchNormBackwardTangent(const BatchNormProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        c_(p, task),
        x_(p.x, p.width, scratch),
        grad_(p.grad, p.width, scratch),
        t_x_(p.t_x, p.width, scratch),
        t_grad_(p.t_grad, p.width, scratch),
        t_d_x_(p.d_x, p.width, scratch) {}

  void run() {
    c_.load_statistics();
    run_activation(p_.relu, *this);
  }

  template <bool RELU>
  void channel() {
    ChannelSums sums;
    if (p_.training) sums = gradient_sums<RELU>(c_, x_, grad_);
    for (int64_t t = 0; t < p_.tangents; ++t) {
      const Move move{scalar<Real>(p_.t_mean, t, c_.g, c_.c), c_.growth(scalar<Real>(p_.t_var, t, c_.g, c_.c))};
      const ChannelSums t_sums = tangent_sums<RELU>(t, move);
      set_scalar<Real>(p_.d_weight, t, c_.g, c_.c, t_sums.product);
      set_scalar<Real>(p_.d_bias, t, c_.g, c_.c, t_sums.total);
      if (p_.d_x) write<RELU>(t, move, sums, t_sums);
    }
  }

 private:
  /// What the statistics do along a tangent: mean' and rstd' / rstd.
  struct Move {
    Real t_mean, growth;
  };

  ALTERNET_INLINE Vector<Real> t_normal(const Move& move, Vector<Real> t_x, Vector<Real> normal) const {
    return (t_x - move.t_mean) * c_.rstd + normal * move.growth;
  }

  /// sum h' and (sum h x̂)'.
  template <bool RELU>
  ChannelSums tangent_sums(int64_t t, const Move& move) const {
    ChannelSums sums;
    for (int64_t b = 0; b < p_.samples; ++b) {
      const int64_t row = c_.row(b);
      const Real *x = x_.row(0, c_.g, row), *grad = grad_.row(0, c_.g, row);
      const Real *t_x = t_x_.row(t, c_.g, row), *t_grad = t_grad_.row(t, c_.g, row);
      Vector<Real> part{}, part_product{};
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> normal = c_.normal(at.load(x));
        const Vector<Real> h = c_.template passed<RELU>(at.load(grad), normal);
        const Vector<Real> t_h = c_.template passed<RELU>(at.load(t_grad), normal);
        part += t_h;
        part_product += t_h * normal + h * t_normal(move, at.load(t_x), normal);
      });
      sums.total += sum<Real>(part);
      sums.product += sum<Real>(part_product);
    }
    return sums;
  }

  template <bool RELU>
  void write(int64_t t, const Move& move, const ChannelSums& sums, const ChannelSums& t_sums) const {
    const bool training = p_.training;
    const double share = 1 / p_.count();
    const Real m_h = static_cast<Real>(sums.total * share), m_hx = static_cast<Real>(sums.product * share);
    const Real m_th = static_cast<Real>(t_sums.total * share), m_thx = static_cast<Real>(t_sums.product * share);
    const Real scale = c_.weight * c_.rstd;
    const Real t_scale = scalar<Real>(p_.t_weight, t, c_.g, c_.c) * c_.rstd + scale * move.growth;
    for (int64_t b = 0; b < p_.samples; ++b) {
      const int64_t row = c_.row(b);
      const Real *x = x_.row(0, c_.g, row), *grad = grad_.row(0, c_.g, row);
      const Real *t_x = t_x_.row(t, c_.g, row), *t_grad = t_grad_.row(t, c_.g, row);
      Real* t_d_x = t_d_x_.row(t, c_.g, row);
      sweep<Real>(p_.width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> normal = c_.normal(at.load(x));
        const Vector<Real> h = c_.template passed<RELU>(at.load(grad), normal);
        const Vector<Real> t_h = c_.template passed<RELU>(at.load(t_grad), normal);
        const Vector<Real> centred = training ? h - m_h - normal * m_hx : h;
        const Vector<Real> t_centred =
            training ? t_h - m_th - t_normal(move, at.load(t_x), normal) * m_hx - normal * m_thx : t_h;
        at.store(t_d_x, t_centred * scale + centred * t_scale);
      });
      t_d_x_.finish(t, c_.g, row);
    }
  }

  const BatchNormProblem& p_;
  Channel<Real> c_;
  RowReader<Real> x_, grad_, t_x_, t_grad_;
  RowWriter<Real> t_d_x_;
};

}  // namespace alternet::ALTERNET_ISA
