// What happens to tiles of scores between products, down the columns of a vector of queries at a time. Included once
// per instruction set (see csrc/vector.h).
#pragma once

#include "csrc/exponential.h"
#include "csrc/sweep.h"

namespace alternet::ALTERNET_ISA {

/// Calls visit(first) for each vector of queries.
template <typename Real, typename Visit>
ALTERNET_INLINE void for_queries(int64_t tokens, Visit visit) {
  for (int64_t i = 0; i < tokens; i += LANES<Real>) visit(i);
}

/// s <- P^T: the softmax of scale s + bias over keys; of a query to which the bias hides every key (-inf), zeros.
template <typename Real>
void softmax(Real* s, const Real* bias, Real scale, int64_t tokens, int64_t stride) {
  for_queries<Real>(tokens, [&](int64_t i) ALTERNET_BODY {
    Vector<Real> most = splat(-std::numeric_limits<Real>::infinity());
    for (int64_t at = i; at < tokens * stride; at += stride) {
      const Vector<Real> score = load(s + at) * scale + load(bias + at);
      store(s + at, score);
      most = Max::combine(most, score);
    }
    most = where<Real>(most == -std::numeric_limits<Real>::infinity(), Vector<Real>{}, most);
    Vector<Real> total{};
    for (int64_t at = i; at < tokens * stride; at += stride) {
      const Vector<Real> e = exponential<Real>(load(s + at) - most);
      store(s + at, e);
      total += e;
    }
    const Vector<Real> factor = Real(1) / where<Real>(total == Real(0), splat(Real(1)), total);
    for (int64_t at = i; at < tokens * stride; at += stride) store(s + at, load(s + at) * factor);
  });
}

/// s <- P' = P (S' - sum of P S'), S' = scale s + bias'.
template <typename Real>
void softmax_tangent(const Real* p, Real* s, const Real* t_bias, Real scale, int64_t tokens, int64_t stride) {
  for_queries<Real>(tokens, [&](int64_t i) ALTERNET_BODY {
    Vector<Real> mean{};
    for (int64_t at = i; at < tokens * stride; at += stride) {
      const Vector<Real> score = load(s + at) * scale + load(t_bias + at);
      store(s + at, score);
      mean += load(p + at) * score;
    }
    for (int64_t at = i; at < tokens * stride; at += stride) store(s + at, load(p + at) * (load(s + at) - mean));
  });
}

/// d <- dS = P (dP - sum of P dP).
template <typename Real>
void score_gradient(const Real* p, Real* d, int64_t tokens, int64_t stride) {
  for_queries<Real>(tokens, [&](int64_t i) ALTERNET_BODY {
    Vector<Real> mean{};
    for (int64_t at = i; at < tokens * stride; at += stride) mean += load(p + at) * load(d + at);
    for (int64_t at = i; at < tokens * stride; at += stride) store(d + at, load(p + at) * (load(d + at) - mean));
  });
}

/// s <- P' = P u, u = S' - sum of P S', S' = scale s + bias'; d <- dS' = u dS + P (dP' - sum of (u dS + P dP')).
template <typename Real>
void score_gradient_tangent(const Real* p, const Real* ds, Real* s, Real* d, const Real* t_bias, Real scale,
                            int64_t tokens, int64_t stride) {
  for_queries<Real>(tokens, [&](int64_t i) ALTERNET_BODY {
    Vector<Real> mean{};
    for (int64_t at = i; at < tokens * stride; at += stride) {
      const Vector<Real> score = load(s + at) * scale + load(t_bias + at);
      store(s + at, score);
      mean += load(p + at) * score;
    }
    Vector<Real> t_delta{};
    for (int64_t at = i; at < tokens * stride; at += stride) {
      const Vector<Real> probability = load(p + at), u = load(s + at) - mean;
      const Vector<Real> sum = u * load(ds + at) + probability * load(d + at);
      store(s + at, probability * u);
      store(d + at, sum);
      t_delta += sum;
    }
    for (int64_t at = i; at < tokens * stride; at += stride) store(d + at, load(d + at) - load(p + at) * t_delta);
  });
}

}  // namespace alternet::ALTERNET_ISA
