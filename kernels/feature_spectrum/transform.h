// From anti-diagonal sums to log amplitudes, a vector of maps at a time. Included once per instruction set.
#pragma once

#include "csrc/carver.h"
#include "csrc/logarithm.h"
#include "csrc/sweep.h"
#include "csrc/vector.h"
#include "feature_spectrum/problem.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
ALTERNET_INLINE Vector<Real> square_root(Vector<Real> x) {
  alignas(64) Real numbers[LANES<Real>];
  store(numbers, x);
  for (int i = 0; i < LANES<Real>; ++i) numbers[i] = std::sqrt(numbers[i]);
  return load(numbers);
}

/// |a + ib|, without overflow where the result has none: by numbers divided by a power of two near the larger one.
template <typename Real>
ALTERNET_INLINE Vector<Real> magnitude(Vector<Real> a, Vector<Real> b) {
  using C = LogConstants<Real>;
  using Integer = typename VectorTypes<Real>::Integer;
  constexpr Integer bias = std::numeric_limits<Real>::max_exponent - 1;
  constexpr Integer exponents = (2 * bias + 1) << C::mantissa, largest = (2 * bias - 1) << C::mantissa;
  const auto exponent = [&](Vector<Real> x) ALTERNET_BODY { return reinterpret_cast<Bits<Real>>(x) & exponents; };
  const Bits<Real> power = Min::combine(Max::combine(exponent(a), exponent(b)), largest - Bits<Real>{});
  const auto factor = reinterpret_cast<Vector<Real>>((2 * bias << C::mantissa) - power);
  a *= factor, b *= factor;
  return reinterpret_cast<Vector<Real>>(power) * square_root<Real>(a * a + b * b);
}

/// to[i] += lane i of v.
template <typename Real>
ALTERNET_INLINE void add_lanes(double* to, Vector<Real> v) {
  constexpr int some = LANES<double>;
  typedef Real Part __attribute__((vector_size(some * sizeof(Real))));
  ALTERNET_UNROLL
  for (int i = 0; i < LANES<Real>; i += some) {
    Part part;
    std::memcpy(&part, reinterpret_cast<const Real*>(&v) + i, sizeof part);
    store(to + i, load(to + i) + __builtin_convertvector(part, Vector<double>));
  }
}

/// F(k) = sum over j of d[j] exp(-2 pi i j k / n) for k = 0 .. n/2, real d. Its real part sees d[j] + d[n-j] only, its
/// imaginary part d[j] - d[n-j]: half the products. n is small (the side of a map), so that a product with a table of
/// waves costs n^2 / 16 instructions a map of n^2 entries: no fast transform is needed.
template <typename Real>
class HalfDiagonal {
  static constexpr int lanes = LANES<Real>;

 public:
  HalfDiagonal(const SpectrumProblem& p, Carver& scratch)
      : n_(p.period()), count_(p.frequencies()), waves_(static_cast<const Real*>(p.waves)) {
    even_ = scratch.take<Real>(count_ * lanes);
    odd_ = scratch.take<Real>(count_ * lanes);
    real_ = scratch.take<Real>(p.padded_frequencies() * lanes);
    imaginary_ = scratch.take<Real>(p.padded_frequencies() * lanes);
    totals_ = scratch.take<double>(count_ * lanes);
  }

  void clear() { std::memset(totals_, 0, count_ * lanes * sizeof(double)); }

  /// Adds the log amplitudes of the first `maps` lanes; sums[j * pitch], j = 0 .. length - 1 < 2 n, wrap at n.
  void add(const Real* sums, int64_t length, int64_t pitch, int64_t maps) {
    fold(sums, length, pitch);
    for (int64_t k = 0; k < count_; k += WAVES) transform(k);
    const auto counted = first_lanes<Real>(maps);
    for (int64_t k = 0; k < count_; ++k) {
      const auto amplitude = magnitude<Real>(load(real_ + k * lanes), load(imaginary_ + k * lanes));
      const auto logs = where<Real>(counted, logarithm<Real>(amplitude + Real(1e-6)), Vector<Real>{});
      add_lanes<Real>(totals_ + k * lanes, logs);
    }
  }

  /// to[k] = the sum over all maps since `clear`.
  void finish(double* to) const {
    for (int64_t k = 0; k < count_; ++k) {
      to[k] = 0;
      for (int i = 0; i < lanes; ++i) to[k] += totals_[k * lanes + i];
    }
  }

 private:
  void fold(const Real* sums, int64_t length, int64_t pitch) {
    const auto wrapped = [&](int64_t j) {
      const Vector<Real> sum = load(sums + j * pitch);
      return j + n_ < length ? sum + load(sums + (j + n_) * pitch) : sum;
    };
    store(even_, wrapped(0));
    store(odd_, Vector<Real>{});
    for (int64_t j = 1; j < count_; ++j) {
      const Vector<Real> front = wrapped(j), back = 2 * j == n_ ? Vector<Real>{} : wrapped(n_ - j);
      store(even_ + j * lanes, front + back);
      store(odd_ + j * lanes, front - back);  // where 2 j = n its sine is 0
    }
  }

  /// Frequencies k .. k + WAVES - 1.
  void transform(int64_t k) {
    const Real* waves = waves_ + k * count_ * 2;
    Vector<Real> real[WAVES]{}, imaginary[WAVES]{};
    for (int64_t j = 0; j < count_; ++j, waves += 2 * WAVES) {
      const Vector<Real> even = load(even_ + j * lanes), odd = load(odd_ + j * lanes);
      ALTERNET_UNROLL
      for (int i = 0; i < WAVES; ++i) {
        real[i] += even * waves[i];
        imaginary[i] += odd * waves[WAVES + i];
      }
    }
    ALTERNET_UNROLL
    for (int i = 0; i < WAVES; ++i) {
      store(real_ + (k + i) * lanes, real[i]);
      store(imaginary_ + (k + i) * lanes, imaginary[i]);
    }
  }

  int64_t n_, count_;
  const Real* waves_;
  Real *even_, *odd_, *real_, *imaginary_;
  double* totals_;
};

/// The unbiased variance of n numbers from the sums of x - s and (x - s)^2.
///
/// With s the mean of the map's first row this is safe: W (s - mean)^2 <= the sum of (x - mean)^2 over that row, so
/// that (s - mean)^2 is at most H times the variance, and the difference cancels no more than a factor of 1 + H.
inline double shifted_variance(double sum, double squares, int64_t n) { return (squares - sum * sum / n) / (n - 1); }

}  // namespace alternet::ALTERNET_ISA
