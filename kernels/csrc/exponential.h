// exp of a vector, within one unit in the last place. Included once per instruction set (see vector.h).
#pragma once

#include "vector.h"

namespace alternet::ALTERNET_ISA {

/// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2, exp(r) = 1 + r + r^2 q(r).
/// q: minimax in relative error, found by exchange for this file; error 3e-9 (float), 4e-18 (double).
template <typename Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float lowest = -87.33f, highest = 88.37f;  // exp(lowest) is the least normal number
  static constexpr float rounder = 12582912.f;                // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float per_ln2 = 1.442695041f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int mantissa = 23;
  static constexpr float q[] = {0.4999999343212929f, 0.1666652039904253f, 0.04166839078354791f, 0.008368745108942591f,
                                0.001381454017680131f};
};

template <>
struct ExpConstants<double> {
  static constexpr double lowest = -708.39, highest = 709.08;
  static constexpr double rounder = 6755399441055744.;  // 1.5 * 2^52
  static constexpr double per_ln2 = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                          ln2_low = 1.90821492927058770002e-10;
  static constexpr int mantissa = 52;
  static constexpr double q[] = {0.5000000000000010669,     0.1666666666666641151,   0.04166666666652972822,
                                 0.008333333333494977261,   0.001388888894375996539, 0.000198412695057737751,
                                 0.00002480149294963386917, 2.755758680389532448e-6, 2.763030625029360005e-7,
                                 2.500001883318737318e-8};
};

/// exp(x): 0 below the smallest normal number (-inf too), NaN stays NaN, x above `highest` is taken as `highest`.
template <typename Real>
ALTERNET_INLINE Vector<Real> exponential(Vector<Real> x) {
  using C = ExpConstants<Real>;
  constexpr int terms = sizeof(C::q) / sizeof(Real);
  const auto vanishes = x < C::lowest;
  x = Min::combine(splat(C::highest), x);
  const Vector<Real> shifted = x * C::per_ln2 + C::rounder;
  const Vector<Real> n = shifted - C::rounder;
  const Vector<Real> r = (x - n * C::ln2_high) - n * C::ln2_low;
  Vector<Real> q = splat(C::q[terms - 1]);
  ALTERNET_UNROLL
  for (int i = terms - 2; i >= 0; --i) q = q * r + C::q[i];
  const Vector<Real> y = (q * r + Real(1)) * r + Real(1);
  const auto power = reinterpret_cast<Bits<Real>>(shifted) << C::mantissa;  // the low bits of `shifted` are n
  const auto scaled = reinterpret_cast<Bits<Real>>(y) + power;
  return reinterpret_cast<Vector<Real>>(scaled & ~vanishes);
}

}  // namespace alternet::ALTERNET_ISA
