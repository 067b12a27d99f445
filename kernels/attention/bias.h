// What is added to the scores, or its tangents, a row of keys at a time: the bias, the table, the neighbourhood's mask.
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/positions.h"

namespace alternet::ALTERNET_ISA {

/// The rows of one (batch, head) and tangent.
template <typename Real>
class BiasRows {
 public:
  BiasRows(const Problem& p, const Operand& bias, const Positions<Real>& positions, const Task& task, int64_t t,
           Real* buffer)
      : present_(bias),
        bias_(bias.slice(task.b, task.h, t)),
        positions_(positions),
        t_(t),
        total_keys_(p.keys),
        buffer_(buffer) {
    std::fill_n(buffer, score_stride<Real>(p), Real(0));
  }

  /// Row i under a tile of keys, readable up to a whole number of vectors; zeros where nothing is added.
  const Real* operator()(int64_t i, Range keys) const {
    if (!present_) return positions_ ? positions_.row(i, keys.first, t_) : buffer_;
    if (!positions_ && keys.first + padded<Real>(keys.count) <= total_keys_ && in_place<Real>(bias_))
      return reinterpret_cast<const Real*>(bias_.at(i, keys.first));
    widen(buffer_, bias_.at(i, keys.first), bias_.type, bias_.column, keys.count);
    if (positions_) add(positions_.row(i, keys.first, t_), keys.count);
    return buffer_;
  }

 private:
  void add(const Real* row, int64_t count) const {
    for (int64_t j = 0; j < count; j += LANES<Real>) store(buffer_ + j, load(buffer_ + j) + load(row + j));
  }

  bool present_;
  Matrix bias_;
  const Positions<Real>& positions_;
  int64_t t_, total_keys_;
  Real* buffer_;
};

/// Those of all tasks.
template <typename Real>
class Bias {
 public:
  /// `masked`: the neighbourhood's mask is part of a bias, not of its tangents.
  Bias(const Problem& problem, const Operand& bias, const Operand& table, int64_t tangents, bool masked,
       Carver& scratch)
      : p(problem),
        from(bias),
        positions(p, table, tangents, masked, scratch),
        buffer(scratch.take<Real>(score_stride<Real>(p))) {}

  void load(const Task& task) { positions.load(task); }

  BiasRows<Real> rows(const Task& task, int64_t t = 0) const { return {p, from, positions, task, t, buffer}; }

 private:
  const Problem& p;
  Operand from;
  Positions<Real> positions;
  Real* buffer;
};

}  // namespace alternet::ALTERNET_ISA
