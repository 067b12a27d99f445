// The element-wise steps that several maps share. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/bias.h"
#include "attention/operands.h"

namespace alternet::ALTERNET_ISA {

/// s <- P = exp(scale s + bias - lse), and its sum.
template <typename Real>
struct ProbabilitySweep {
  Real* s;
  const Real* bias;
  Real scale, lse;
  Vector<Real> sum{};

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    const Vector<Real> p = exponential<Real>(load(s + j) * scale + load(bias + j) - lse);
    store(s + j, counted<MASKED, Real>(p, lanes));
    sum += counted<MASKED, Real>(p, lanes);
  }
  ALTERNET_INLINE void clear(int64_t j) { store(s + j, Vector<Real>{}); }
};

/// d <- dS = P (d - delta).
template <typename Real>
struct ScoreGradientSweep {
  const Real* p;
  Real* d;
  Real delta;

  template <bool MASKED>
  ALTERNET_INLINE void step(int64_t j, int64_t lanes) {
    store(d + j, counted<MASKED, Real>(load(p + j) * (load(d + j) - delta), lanes));
  }
  ALTERNET_INLINE void clear(int64_t j) { store(d + j, Vector<Real>{}); }
};

/// A tile of Q K^T becomes P = exp(scale Q K^T + bias - lse); `sum`, if given, gets its row sums.
template <typename Factor, typename Real = SumOf<Factor>>
void to_probabilities(const Problem& p, const Task& task, Range queries, Range keys, const ScoreTile<Factor>& scores,
                      const BiasRows<Real>& bias, Real* sum = nullptr) {
  const Matrix lse = p.lse.slice(task.b, task.h);
  for (int64_t r = 0; r < queries.count; ++r) {
    const int64_t i = queries.first + r;
    ProbabilitySweep<Real> sweep{scores.row(r), bias(i, keys), static_cast<Real>(p.scale), at<Real>(lse, i)};
    sweep_row<Real>(sweep, visible(p, i, keys), keys.count);
    if (sum) sum[r] = reduce<Sum, Real>(sweep.sum);
  }
}

/// to[r] = the inner product of row r of `queries` in a and b, or += that.
template <typename Real>
void row_dots(const Matrix& a, const Matrix& b, Range queries, int64_t columns, Real* to, bool add = false) {
  for (int64_t r = 0; r < queries.count; ++r) {
    const RowOf<Real> left(a, queries.first + r, columns), right(b, queries.first + r, columns);
    const Real product = dot(left.data(), right.data(), columns);
    to[r] = add ? to[r] + product : product;
  }
}

/// Writes d_key and d_value of a task, or adds them, in the order of tasks, where others have a part in them.
template <typename Factor, typename Real = SumOf<Factor>>
void write_key_side(const Problem& p, const Task& task, const Sums<Factor>& d_key, const Sums<Factor>& d_value) {
  if (!d_key && !d_value) return;
  const bool shared = p.plan.chunks * p.group > 1;
  const int64_t chain = task.b * p.heads + task.h / p.group;
  const int64_t rank = task.chunk * p.group + task.h % p.group;
  if (shared) p.key_turns->wait(chain, rank);
  const int64_t keys = rank > 0 ? seen(p, task.queries()).end() : p.keys;
  d_key.write(task, 0, keys, static_cast<Real>(p.scale), rank > 0);
  d_value.write(task, 0, keys, Real(1), rank > 0);
  if (shared) p.key_turns->pass(chain, rank);
}

}  // namespace alternet::ALTERNET_ISA
