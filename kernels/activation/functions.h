// Activation functions and their first two derivatives, a vector at a time. Included once per instruction set (see
// csrc/vector.h).
#pragma once

#include "csrc/exponential.h"
#include "csrc/vector.h"

namespace alternet::ALTERNET_ISA {

/// φ(u), φ'(u) and φ''(u).
template <typename Real>
struct Derivatives {
  Vector<Real> value, slope, bend;
};

template <typename Real>
struct Relu {
  static ALTERNET_INLINE Vector<Real> value(Vector<Real> u) {
    return where<Real>(u <= Real(0), Vector<Real>{}, u);  // NaN stays
  }
  static ALTERNET_INLINE Derivatives<Real> derivatives(Vector<Real> u) {
    return {value(u), where<Real>(u <= Real(0), Vector<Real>{}, splat(Real(1))), Vector<Real>{}};
  }
};

template <typename Real>
constexpr auto SIGN_BIT = std::numeric_limits<typename VectorTypes<Real>::Integer>::min();

template <typename Real>
ALTERNET_INLINE Vector<Real> magnitude(Vector<Real> u) {
  return reinterpret_cast<Vector<Real>>(reinterpret_cast<Bits<Real>>(u) & ~SIGN_BIT<Real>);
}

/// |u| up to where its exponential vanishes: derivatives are finite beyond. NaN stays.
template <typename Real>
ALTERNET_INLINE Vector<Real> bounded(Vector<Real> u) {
  const Vector<Real> a = Min::combine(splat(Real(40)), magnitude<Real>(u));
  return reinterpret_cast<Vector<Real>>(reinterpret_cast<Bits<Real>>(a) |
                                        (reinterpret_cast<Bits<Real>>(u) & SIGN_BIT<Real>));
}

/// The normal distribution's cumulative function and density.
template <typename Real>
struct Normal {
  Vector<Real> cdf, pdf;
};

/// Φ(-a) = exp(-a²/2) t p(t) with t = 1 / (1 + 0.45 a), a >= 0; p: fitted in relative error for this file, 1.2e-8.
/// In float32 arithmetic the product is within 3e-7 of the truth, relatively, for every a.
ALTERNET_INLINE Normal<float> normal(Vector<float> u) {
  constexpr float p[] = {0.1795236320f, 0.1795451822f,  0.1427111777f, 0.07580847311f, -0.05381542860f, 0.09079976978f,
                         -0.5203770570f, 0.8416239901f, -0.6508202252f, 0.2571399922f, -0.04213951007f};
  const Vector<float> a = magnitude<float>(u), t = 1.f / (1.f + 0.45f * a);
  const Vector<float> power = exponential<float>(-0.5f * a * a);
  Vector<float> q = splat(p[10]);
  ALTERNET_UNROLL
  for (int i = 9; i >= 0; --i) q = q * t + p[i];
  const Vector<float> tail = power * t * q;
  return {u < 0.f ? tail : 1.f - tail, 0.3989422804f * power};
}

/// The standard library's erfc, a lane at a time.
ALTERNET_INLINE Normal<double> normal(Vector<double> u) {
  Vector<double> cdf{};
  for (int i = 0; i < LANES<double>; ++i) cdf[i] = 0.5 * std::erfc(-0.70710678118654752440 * u[i]);
  return {cdf, 0.39894228040143267794 * exponential<double>(-0.5 * u * u)};
}

/// u Φ(u).
template <typename Real>
struct Gelu {
  static ALTERNET_INLINE Vector<Real> value(Vector<Real> u) { return u * normal(u).cdf; }
  static ALTERNET_INLINE Derivatives<Real> derivatives(Vector<Real> u) {
    const Vector<Real> a = bounded<Real>(u);
    const Normal<Real> n = normal(a);
    return {u * n.cdf, n.cdf + a * n.pdf, (Real(2) - a * a) * n.pdf};
  }
};

/// u s(u) with s = (1 + tanh v) / 2 = 1 / (1 + exp(-2v)), v = sqrt(2/π) (u + 0.044715 u³).
template <typename Real>
struct GeluTanh {
  static constexpr Real scale = 0.79788456080286535588, cube = 0.044715;

  /// exp(-2v).
  static ALTERNET_INLINE Vector<Real> power(Vector<Real> u) {
    return exponential<Real>(Real(-2) * scale * (u + cube * (u * u * u)));
  }
  static ALTERNET_INLINE Vector<Real> value(Vector<Real> u) { return u / (Real(1) + power(bounded<Real>(u))); }
  static ALTERNET_INLINE Derivatives<Real> derivatives(Vector<Real> u) {
    const Vector<Real> a = bounded<Real>(u);
    const Vector<Real> e = power(a), s = Real(1) / (Real(1) + e), spread = e * s * s;  // s (1 - s), not cancelled
    const Vector<Real> v1 = Real(2) * scale * (Real(1) + Real(3) * cube * (a * a));  // (2v)'
    const Vector<Real> v2 = Real(12) * scale * cube * a;                             // (2v)''
    const Vector<Real> s1 = spread * v1, s2 = spread * (v2 + v1 * v1 * (Real(1) - Real(2) * s));
    return {u * s, s + a * s1, Real(2) * s1 + a * s2};
  }
};

}  // namespace alternet::ALTERNET_ISA
