// The four maps of activations, a row at a time, and their table. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "activation/functions.h"
#include "activation/problem.h"
#include "csrc/row_access.h"
#include "csrc/sweep.h"

namespace alternet::ALTERNET_ISA {

/// A kernel's rows(φ) with the φ of the problem.
template <typename Real, typename Kernel>
void run_kind(ActivationKind kind, Kernel& kernel) {
  if (kind == ActivationKind::relu) return kernel.template rows<Relu<Real>>();
  if (kind == ActivationKind::gelu) return kernel.template rows<Gelu<Real>>();
  kernel.template rows<GeluTanh<Real>>();
}

/// y = φ(u), u = x + bias.
template <typename Real>
class ActivationForward {
 public:
  ActivationForward(const ActivationProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        bias_(p.bias, p.width, scratch),
        y_(p.r_y, p.width, scratch) {}

  void run() { run_kind<Real>(p_.kind, *this); }

  template <typename Function>
  void rows() {
    const int64_t b = task_.b;
    const Real* bias = bias_.row(0, b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const int64_t width = p_.width_of(i);
      const Real* x = x_.row(0, b, i, width);
      Real* y = y_.row(0, b, i);
      sweep<Real>(width, [&](auto at)
                             ALTERNET_BODY { at.store(y, Function::value(at.load(x) + at.load(bias))); });
      y_.finish(0, b, i, width);
    }
  }

 private:
  const ActivationProblem& p_;
  RowTask task_;
  RowReader<Real> x_, bias_;
  RowWriter<Real> y_;
};

/// y' = φ'(u) u'; also y where it is asked for.
template <typename Real>
class ActivationTangent {
 public:
  ActivationTangent(const ActivationProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        bias_(p.bias, p.width, scratch),
        t_x_(p.t_x, p.width, scratch),
        t_bias_(p.t_bias, p.width, scratch),
        y_(p.primal_y, p.width, scratch),
        t_y_(p.r_y, p.width, scratch),
        slopes_(scratch.take<Real>(p.width)) {}

  void run() { run_kind<Real>(p_.kind, *this); }

  template <typename Function>
  void rows() {
    const int64_t b = task_.b;
    const Real* bias = bias_.row(0, b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const int64_t width = p_.width_of(i);
      const Real* x = x_.row(0, b, i, width);
      Real* y = y_.row(0, b, i);
      const auto slope = [&](auto at) ALTERNET_BODY {
        const Derivatives<Real> d = Function::derivatives(at.load(x) + at.load(bias));
        at.store(y, d.value);
        return d.slope;
      };
      if (p_.tangents == 1) {  // nothing to share: one sweep
        row(0, i, width, slope);
      } else {
        sweep<Real>(width, [&](auto at) ALTERNET_BODY { at.store(slopes_, slope(at)); });
        const auto kept = [&](auto at) ALTERNET_BODY { return at.load(slopes_); };
        for (int64_t t = 0; t < p_.tangents; ++t) row(t, i, width, kept);
      }
      y_.finish(0, b, i, width);
    }
  }

 private:
  /// slope(at): φ'(u).
  template <typename Slope>
  void row(int64_t t, int64_t i, int64_t width, Slope slope) const {
    const Real *t_x = t_x_.row(t, task_.b, i, width), *t_bias = t_bias_.row(t, task_.b, 0);
    Real* t_y = t_y_.row(t, task_.b, i);
    sweep<Real>(width, [&](auto at)
                           ALTERNET_BODY { at.store(t_y, slope(at) * (at.load(t_x) + at.load(t_bias))); });
    t_y_.finish(t, task_.b, i, width);
  }

  const ActivationProblem& p_;
  RowTask task_;
  RowReader<Real> x_, bias_, t_x_, t_bias_;
  RowWriter<Real> y_, t_y_;
  Real* slopes_;
};

/// d_x = φ'(u) g, d_bias its sum over rows.
template <typename Real>
class ActivationBackward {
 public:
  ActivationBackward(const ActivationProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        bias_(p.bias, p.width, scratch),
        grad_(p.grad, p.width, scratch),
        d_x_(p.d_x, p.width, scratch),
        d_bias_(p.d_bias, p, task, scratch) {}

  void run() { run_kind<Real>(p_.kind, *this); }

  template <typename Function>
  void rows() {
    const int64_t b = task_.b;
    const Real* bias = bias_.row(0, b, 0);
    Real* d_bias = d_bias_.block();
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const int64_t width = p_.width_of(i);
      const Real *x = x_.row(0, b, i, width), *grad = grad_.row(0, b, i, width);
      Real* d_x = d_x_.row(0, b, i);
      sweep<Real>(width, [&](auto at) ALTERNET_BODY {
        const Vector<Real> d = Function::derivatives(at.load(x) + at.load(bias)).slope * at.load(grad);
        at.store(d_x, d);
        if (d_bias) at.add(d_bias, d);
      });
      d_x_.finish(0, b, i, width);
      d_bias_.row_done();
    }
    d_bias_.flush();
  }

 private:
  const ActivationProblem& p_;
  RowTask task_;
  RowReader<Real> x_, bias_, grad_;
  RowWriter<Real> d_x_;
  ColumnSums<Real> d_bias_;
};

/// φ'(u) and φ''(u) g.
template <typename Real>
struct Factors {
  Vector<Real> slope, bend_g;
};

/// d_x' = φ''(u) u' g + φ'(u) g', d_bias' its sum over rows; also d_x and d_bias where they are asked for.
template <typename Real>
class ActivationBackwardTangent {
 public:
  ActivationBackwardTangent(const ActivationProblem& p, int64_t task, Scratch& scratch)
      : p_(p),
        task_(p, task),
        x_(p.x, p.width, scratch),
        bias_(p.bias, p.width, scratch),
        grad_(p.grad, p.width, scratch),
        t_x_(p.t_x, p.width, scratch),
        t_bias_(p.t_bias, p.width, scratch),
        t_grad_(p.t_grad, p.width, scratch),
        d_x_(p.primal_d_x, p.width, scratch),
        t_d_x_(p.d_x, p.width, scratch),
        d_bias_(p.primal_d_bias, p.of_one(), task, scratch),
        t_d_bias_(p.d_bias, p, task, scratch),
        slopes_(scratch.take<Real>(p.width)),
        bends_(scratch.take<Real>(p.width)) {}

  void run() { run_kind<Real>(p_.kind, *this); }

  template <typename Function>
  void rows() {
    const int64_t b = task_.b;
    const Real* bias = bias_.row(0, b, 0);
    for (int64_t i = task_.first; i < task_.last; ++i) {
      const int64_t width = p_.width_of(i);
      const Real *x = x_.row(0, b, i, width), *grad = grad_.row(0, b, i, width);
      Real *d_x = d_x_.row(0, b, i), *d_bias = d_bias_.block();
      const auto derivatives = [&](auto at) ALTERNET_BODY {
        const Derivatives<Real> d = Function::derivatives(at.load(x) + at.load(bias));
        const Vector<Real> g = at.load(grad), slope_g = d.slope * g;
        at.store(d_x, slope_g);
        if (d_bias) at.add(d_bias, slope_g);
        return Factors<Real>{d.slope, d.bend * g};
      };
      if (p_.tangents == 1) {  // nothing to share: one sweep
        row(0, i, width, derivatives);
      } else {
        sweep<Real>(width, [&](auto at) ALTERNET_BODY {
          const Factors<Real> factors = derivatives(at);
          at.store(slopes_, factors.slope);
          at.store(bends_, factors.bend_g);
        });
        const auto kept = [&](auto at) ALTERNET_BODY { return Factors<Real>{at.load(slopes_), at.load(bends_)}; };
        for (int64_t t = 0; t < p_.tangents; ++t) row(t, i, width, kept);
      }
      d_x_.finish(0, b, i, width);
      d_bias_.row_done();
      t_d_bias_.row_done();
    }
    d_bias_.flush();
    t_d_bias_.flush();
  }

 private:
  /// factors_at(at): φ'(u) and φ''(u) g.
  template <typename Kept>
  void row(int64_t t, int64_t i, int64_t width, Kept factors_at) const {
    const int64_t b = task_.b;
    const Real *t_x = t_x_.row(t, b, i, width), *t_bias = t_bias_.row(t, b, 0), *t_grad = t_grad_.row(t, b, i, width);
    Real *t_d_x = t_d_x_.row(t, b, i), *t_d_bias = t_d_bias_.block(t);
    sweep<Real>(width, [&](auto at) ALTERNET_BODY {
      const Vector<Real> t_u = at.load(t_x) + at.load(t_bias);
      const Factors<Real> factors = factors_at(at);
      const Vector<Real> t_d = factors.bend_g * t_u + factors.slope * at.load(t_grad);
      at.store(t_d_x, t_d);
      if (t_d_bias) at.add(t_d_bias, t_d);
    });
    t_d_x_.finish(t, b, i, width);
  }

  const ActivationProblem& p_;
  RowTask task_;
  RowReader<Real> x_, bias_, grad_, t_x_, t_bias_, t_grad_;
  RowWriter<Real> d_x_, t_d_x_;
  ColumnSums<Real> d_bias_, t_d_bias_;
  Real *slopes_, *bends_;
};

template <typename Real>
constexpr RowMaps<ActivationProblem> activation_maps() {
  return {RowEntry<ActivationForward<Real>, ActivationProblem>::map,
          RowEntry<ActivationTangent<Real>, ActivationProblem>::map,
          RowEntry<ActivationBackward<Real>, ActivationProblem>::map,
          RowEntry<ActivationBackwardTangent<Real>, ActivationProblem>::map};
}

const RowKernels<ActivationProblem>& activation_kernels() {
  static constexpr RowKernels<ActivationProblem> kernels{activation_maps<float>(), activation_maps<double>()};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
