// A channel of a group, and what all maps of batch normalisation need of it. Included once per instruction set (see
// csrc/vector.h).
#pragma once

#include "batch_norm/problem.h"
#include "csrc/row_access.h"
#include "csrc/sweep.h"

namespace alternet::ALTERNET_ISA {

/// One number a channel, of the arithmetic type; `absent` where the tensor is.
template <typename Real>
Real scalar(const RowTensor& tensor, int64_t t, int64_t g, int64_t c, Real absent = 0) {
  return tensor ? tensor.scalar<Real>(t, g, c) : absent;
}

template <typename Real>
void set_scalar(const RowTensor& tensor, int64_t t, int64_t g, int64_t c, double value) {
  if (tensor) tensor.scalar<Real>(t, g, c) = static_cast<Real>(value);
}

template <typename Real>
struct Channel {
  const BatchNormProblem& p;
  int64_t g, c;
  Real weight, bias, mean = 0, var = 0, rstd = 1;

  Channel(const BatchNormProblem& p, int64_t task)
      : p(p),
        g(task / p.channels),
        c(task % p.channels),
        weight(scalar<Real>(p.weight, 0, g, c, 1)),
        bias(scalar<Real>(p.bias, 0, g, c)) {}

  void load_statistics() { set_statistics(scalar<Real>(p.mean, 0, g, c), scalar<Real>(p.var, 0, g, c)); }

  void set_statistics(Real channel_mean, Real channel_var) {
    mean = channel_mean;
    var = channel_var;
    rstd = static_cast<Real>(1 / std::sqrt(var + p.eps));
  }

  /// The row of sample b.
  int64_t row(int64_t b) const { return b * p.channels + c; }

  /// rstd' / rstd.
  Real growth(Real t_var) const { return Real(-0.5) * rstd * rstd * t_var; }

  ALTERNET_INLINE Vector<Real> normal(Vector<Real> x) const { return (x - mean) * rstd; }
  ALTERNET_INLINE Vector<Real> before_activation(Vector<Real> normal) const { return normal * weight + bias; }

  /// v where the activation lets it pass, as PyTorch's where that is NaN.
  template <bool RELU>
  ALTERNET_INLINE Vector<Real> passed(Vector<Real> v, Vector<Real> normal) const {
    if constexpr (!RELU) return v;
    return where<Real>(before_activation(normal) <= Real(0), Vector<Real>{}, v);
  }
};

/// kernel.channel<RELU>() as the problem has it.
template <typename Kernel>
void run_activation(bool relu, Kernel& kernel) {
  if (relu) return kernel.template channel<true>();
  kernel.template channel<false>();
}

}  // namespace alternet::ALTERNET_ISA
