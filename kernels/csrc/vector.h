// Vectors of one instruction set, in the vector extensions that GCC and Clang share: no intrinsics, so that one text
// serves SSE2, AVX2, AVX-512 and NEON. Included once per instruction set, which defines
//   ALTERNET_ISA               its name, also the namespace,
//   ALTERNET_VECTOR_BYTES      the width of a vector,
//   ALTERNET_VECTOR_REGISTERS  how many there are.
// A product followed by a sum becomes one fused instruction where there is one (-ffp-contract=fast).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#define ALTERNET_INLINE inline __attribute__((always_inline))

// ALTERNET_UNROLL stands before a loop over registers: unless it is unrolled altogether they live in memory.
// ALTERNET_KEEP stands before the loop over the depth of a product, which Clang would unroll until registers run out.
#if defined(__clang__)
#define ALTERNET_UNROLL _Pragma("clang loop unroll(full)")
#define ALTERNET_KEEP _Pragma("clang loop unroll(disable)")
#else
#define ALTERNET_UNROLL _Pragma("GCC unroll 64")
#define ALTERNET_KEEP
#endif

namespace alternet::ALTERNET_ISA {

template <typename Real>
struct VectorTypes;

template <>
struct VectorTypes<float> {
  typedef int32_t Integer;
  typedef float Vector __attribute__((vector_size(ALTERNET_VECTOR_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(ALTERNET_VECTOR_BYTES)));
};

template <>
struct VectorTypes<double> {
  typedef int64_t Integer;
  typedef double Vector __attribute__((vector_size(ALTERNET_VECTOR_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(ALTERNET_VECTOR_BYTES)));
};

template <typename Real>
using Vector = typename VectorTypes<Real>::Vector;
template <typename Real>
using Bits = typename VectorTypes<Real>::Bits;

template <typename Real>
constexpr int LANES = ALTERNET_VECTOR_BYTES / sizeof(Real);

template <typename Real>
constexpr int64_t padded(int64_t n) {
  return (n + LANES<Real> - 1) / LANES<Real> * LANES<Real>;
}

template <typename Real>
ALTERNET_INLINE Vector<Real> load(const Real* from) {
  Vector<Real> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename Real>
ALTERNET_INLINE void store(Real* to, Vector<Real> v) {
  std::memcpy(to, &v, sizeof v);
}

template <typename Real>
ALTERNET_INLINE Vector<Real> splat(Real x) {
  return x - Vector<Real>{};  // x - 0 is x, also for -0: compiles to one broadcast
}

/// All bits set in lanes 0 .. n-1, none in the others.
template <typename Real>
ALTERNET_INLINE Bits<Real> first_lanes(int64_t n) {
  Bits<Real> lane{};
  ALTERNET_UNROLL
  for (int i = 0; i < LANES<Real>; ++i) lane[i] = i;
  return lane < static_cast<typename VectorTypes<Real>::Integer>(n);
}

template <typename Real>
ALTERNET_INLINE Vector<Real> where(Bits<Real> mask, Vector<Real> v, Vector<Real> otherwise) {
  const auto chosen = (reinterpret_cast<Bits<Real>>(v) & mask) | (reinterpret_cast<Bits<Real>>(otherwise) & ~mask);
  return reinterpret_cast<Vector<Real>>(chosen);
}

/// Lanes I... of the 2 * LANES lanes of (a, b).
template <int... I, typename V>
ALTERNET_INLINE V shuffle(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  using Index = decltype(a < b);
  return __builtin_shuffle(a, b, Index{I...});
#endif
}

/// Lanes of (a, b) in turn: FIRST selects a[FIRST], b[FIRST], a[FIRST + 1], b[FIRST + 1], ...
template <int FIRST, typename V, int... I>
ALTERNET_INLINE V interleave(V a, V b, std::integer_sequence<int, I...>) {
  return shuffle<(FIRST + I / 2 + I % 2 * static_cast<int>(sizeof...(I)))...>(a, b);
}

/// The lanes of v, each moved STEP places down, round the end.
template <int STEP, typename V, int... I>
ALTERNET_INLINE V rotate(V v, std::integer_sequence<int, I...>) {
  return shuffle<((I + STEP) % static_cast<int>(sizeof...(I)))...>(v, v);
}

struct Sum {
  template <typename V>
  static ALTERNET_INLINE V combine(V a, V b) {
    return a + b;
  }
};

/// b where either is NaN.
struct Max {
  template <typename V>
  static ALTERNET_INLINE V combine(V a, V b) {
    return a > b ? a : b;
  }
};

/// b where either is NaN.
struct Min {
  template <typename V>
  static ALTERNET_INLINE V combine(V a, V b) {
    return a < b ? a : b;
  }
};

template <typename Operation, typename Real, int STEP = LANES<Real> / 2>
ALTERNET_INLINE Real reduce(Vector<Real> v) {
  if constexpr (STEP == 0) {
    return v[0];
  } else {
    v = Operation::combine(v, rotate<STEP>(v, std::make_integer_sequence<int, LANES<Real>>{}));
    return reduce<Operation, Real, STEP / 2>(v);
  }
}

}  // namespace alternet::ALTERNET_ISA
