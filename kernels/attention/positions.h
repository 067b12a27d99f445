// Tables of relative positions, and the mask of a neighbourhood, unrolled so that biases are consecutive numbers.
// Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/tiles.h"

namespace alternet::ALTERNET_ISA {

/// How a table [2h-1, 2w-1] lies unrolled. It has a row for each column c of queries, with the w entries that such a
/// query meets in each row of the table: entry d w + j is table[d, j - c + w - 1]. The biases of query (r, c) and keys
/// 0, 1, ... are then the consecutive numbers from (h-1-r) w on: they are read, and their gradients added up, a vector
/// at a time. That is w (2h-1) w numbers beside the (hw)^2 of a bias.
template <typename Real>
struct Unrolled {
  int64_t height, width;

  explicit Unrolled(const Problem& p) : height(p.grid.height), width(p.grid.width) {}

  int64_t depth() const { return 2 * height - 1; }
  int64_t stride() const { return depth() * width + LANES<Real>; }  // sweeps read up to a whole number of vectors
  int64_t size() const { return width * stride(); }
  int64_t place(int64_t i, int64_t key) const { return i % width * stride() + (height - 1 - i / width) * width + key; }

  /// Row d of the entries that queries of column c meet: table[d, first(c) ..].
  Real* segment(Real* memory, int64_t c, int64_t d) const { return memory + c * stride() + d * width; }
  int64_t first(int64_t c) const { return width - 1 - c; }
};

/// A table, or T tangents of one; if MASKED also -inf where a query does not see a key.
template <typename Real>
class Positions {
 public:
  Positions(const Problem& problem, const Operand& table, int64_t tangents, bool masked, Carver& scratch)
      : p(problem),
        unrolled(p),
        from(table),
        is_masked(masked && p.grid.local),
        T(from || is_masked ? tangents : 0),
        memory(scratch.take<Real>(T * unrolled.size())) {}

  explicit operator bool() const { return T > 0; }

  void load(const Task& task) {
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < p.grid.width; ++c) {
        for (int64_t d = 0; d < unrolled.depth(); ++d) load_segment(task, t, c, d);
        std::fill_n(unrolled.segment(memory + t * unrolled.size(), c, unrolled.depth()), LANES<Real>, Real(0));
      }
  }

  /// What query i adds to its scores with the keys from `key` on.
  const Real* row(int64_t i, int64_t key, int64_t t) const {
    return memory + t * unrolled.size() + unrolled.place(i, key);
  }

 private:
  void load_segment(const Task& task, int64_t t, int64_t c, int64_t d) {
    Real* const to = unrolled.segment(memory + t * unrolled.size(), c, d);
    if (from) {
      const Matrix table = from.slice(task.b, task.h, t);
      widen(to, table.at(d, unrolled.first(c)), table.type, table.column, p.grid.width);
    } else {
      std::fill_n(to, p.grid.width, Real(0));
    }
    if (!is_masked) return;
    const int64_t down = d - (p.grid.height - 1);
    const bool inside = -p.grid.up <= down && down <= p.grid.down;
    for (int64_t j = 0; j < p.grid.width; ++j)
      if (!inside || j < c - p.grid.left || j > c + p.grid.right) to[j] = -std::numeric_limits<Real>::infinity();
  }

  const Problem& p;
  Unrolled<Real> unrolled;
  Operand from;
  bool is_masked;
  int64_t T;
  Real* memory;
};

/// Collects dS of a task into the gradient of the table, or into those of T tangents.
template <typename Real>
class TableGradient {
 public:
  TableGradient(const Problem& problem, Carver& scratch)
      : p(problem), unrolled(p), memory(scratch.take<Real>(p.d_table ? p.tangents * unrolled.size() : 0)) {}

  explicit operator bool() const { return static_cast<bool>(p.d_table); }

  void begin_task() {
    if (p.d_table) std::fill_n(memory, p.tangents * unrolled.size(), Real(0));
  }

  /// Adds dS of query i and `keys`, of tangent t; it is zero where nothing is visible.
  void add(int64_t t, int64_t i, Range keys, const Real* d_scores) {
    Real* const sum = memory + t * unrolled.size() + unrolled.place(i, keys.first);
    for (int64_t j = 0; j < padded<Real>(keys.count); j += LANES<Real>)
      store(sum + j, load(sum + j) + load(d_scores + j));
  }

  /// Writes the task's part of the sum.
  void end_task(const Task& task) const {
    const int64_t columns = 2 * p.grid.width - 1;
    for (int64_t t = 0; p.d_table && t < p.tangents; ++t) {
      Real* const part = reinterpret_cast<Real*>(p.table_parts) + p.table_part(t, task.b, task.h, task.chunk);
      std::fill_n(part, p.table_entries(), Real(0));
      for (int64_t c = 0; c < p.grid.width; ++c)
        for (int64_t d = 0; d < unrolled.depth(); ++d) {
          const Real* const segment = unrolled.segment(memory + t * unrolled.size(), c, d);
          Real* const to = part + d * columns + unrolled.first(c);
          for (int64_t j = 0; j < p.grid.width; ++j) to[j] += segment[j];
        }
    }
  }

 private:
  const Problem& p;
  Unrolled<Real> unrolled;
  Real* memory;
};

}  // namespace alternet::ALTERNET_ISA
