// Natural logarithm of a vector. Included once per instruction set (see vector.h).
#pragma once

#include "vector.h"

namespace alternet::ALTERNET_ISA {

/// log(2^n m) = n ln 2 + log(m), sqrt(1/2) <= m < sqrt(2), log(m) = 2 artanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...) with
/// s = (m - 1) / (m + 1), s^2 < 0.0295. What is cut off is below 2e-9 (float), 3e-17 (double) of log(m).
template <typename Real>
struct LogConstants;

template <>
struct LogConstants<float> {
  static constexpr int mantissa = 23, terms = 5;
  static constexpr int32_t root_half = 0x3f3504f3;
  static constexpr float largest = 3.402823466e38f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <>
struct LogConstants<double> {
  static constexpr int mantissa = 52, terms = 11;
  static constexpr int64_t root_half = 0x3fe6a09e667f3bcd;
  static constexpr double largest = 1.7976931348623157e308, ln2_high = 0.693147180369123816490,
                          ln2_low = 1.90821492927058770002e-10;
};

/// log(x) within two units in the last place (of 1, near x = 1) for normal x > 0; infinity and NaN stay what they are.
template <typename Real>
ALTERNET_INLINE Vector<Real> logarithm(Vector<Real> x) {
  using C = LogConstants<Real>;
  const auto bits = reinterpret_cast<Bits<Real>>(x);
  const Bits<Real> exponent = (bits - C::root_half) >> C::mantissa;
  const Vector<Real> n = __builtin_convertvector(exponent, Vector<Real>);
  const auto m = reinterpret_cast<Vector<Real>>(bits - (exponent << C::mantissa));
  const Vector<Real> s = (m - Real(1)) / (m + Real(1)), square = s * s;
  Vector<Real> series = splat(Real(1) / (2 * C::terms - 1));
  ALTERNET_UNROLL
  for (int i = C::terms - 2; i > 0; --i) series = series * square + Real(1) / (2 * i + 1);
  const Vector<Real> twice = s + s;
  const Vector<Real> log_m = twice + twice * (square * series);
  const Vector<Real> result = n * C::ln2_high + (log_m + n * C::ln2_low);
  return where<Real>(x <= C::largest, result, x);
}

}  // namespace alternet::ALTERNET_ISA
