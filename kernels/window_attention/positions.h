// A table of relative positions as a tile of biases, and the gradient of a table from tiles of dS. Included once per
// instruction set (see csrc/vector.h).
#pragma once

#include "csrc/sweep.h"
#include "window_attention/tiles.h"

namespace alternet::ALTERNET_ISA {

/// Calls visit(key, query, place in the table) for the pairs of a window: the place is that of key - query.
template <typename Visit>
ALTERNET_INLINE void for_pairs(const WindowProblem& p, const Window& window, Visit visit) {
  const int64_t width = 2 * p.window_width - 1, origin = (p.window_height - 1) * width + p.window_width - 1;
  int64_t j = 0;
  for (int64_t y = 0; y < window.rows; ++y)
    for (int64_t x = 0; x < window.columns; ++x, ++j)
      for (int64_t r = 0; r < window.rows; ++r)
        for (int64_t c = 0; c < window.columns; ++c)
          visit(j, r * window.columns + c, origin + (y - r) * width + x - c);
}

/// The biases [keys, queries] of a window, zeros without a table. Windows of one size share them.
template <typename Real>
class BiasTile {
 public:
  BiasTile(const WindowProblem& p, const Operand& table, Carver& scratch)
      : p_(p), table_(table), tile_(p, 1, true, scratch), entries_(scratch.take<Real>(table ? p.table_entries() : 0)) {}

  /// Of window `window`; the kernel must hold still which table it asks for between calls of one task.
  const Real* of(const WindowTask& task, const Window& window, int64_t t = 0) {
    if (window.rows != rows_ || window.columns != columns_ || t != t_) fill(task, window, t);
    return tile_.tile();
  }

 private:
  void fill(const WindowTask& task, const Window& window, int64_t t) {
    if (rows_ == 0) tile_.clear();
    rows_ = window.rows, columns_ = window.columns, t_ = t;
    if (!table_) return;
    const Matrix table = table_.slice(task.b, task.h, t);
    const int64_t width = 2 * p_.window_width - 1;
    for (int64_t d = 0; d < 2 * p_.window_height - 1; ++d)
      widen(entries_ + d * width, table.at(d), table.type, table.column, width);
    Real* const tile = tile_.tile();
    const int64_t stride = tile_.stride();
    for_pairs(p_, window, [&](int64_t j, int64_t i, int64_t place) ALTERNET_BODY { tile[j * stride + i] = entries_[place]; });
  }

  const WindowProblem& p_;
  Operand table_;
  Tiles<Real> tile_;
  Real* entries_;
  int64_t rows_ = 0, columns_ = 0, t_ = -1;
};

/// Adds up dS^T of a task: windows of one size in a tile, then into the task's part of the table's gradient. Without
/// `parts` to write it to there is nothing to add.
template <typename Real>
class TableGradient {
 public:
  TableGradient(const WindowProblem& p, char* parts, int64_t tangents, Carver& scratch)
      : p_(p), parts_(reinterpret_cast<Real*>(parts)), tangents_(tangents),
        sums_(p, tangents, parts != nullptr, scratch), size_(scratch.take<Window>(tangents)) {}

  explicit operator bool() const { return parts_ != nullptr; }

  void begin(const WindowTask& task) {
    if (!parts_) return;
    part_ = parts_ + task.index * tangents_ * p_.table_entries();
    std::fill_n(part_, tangents_ * p_.table_entries(), Real(0));
    sums_.clear();
    std::fill_n(size_, tangents_, Window{});
  }

  void add(const Window& window, const Real* d_scores, int64_t t = 0) {
    if (window.rows != size_[t].rows || window.columns != size_[t].columns) {
      flush(t);
      size_[t] = window;
    }
    Real* const sum = sums_.tile(t);
    const int64_t end = (window.tokens() - 1) * sums_.stride() + padded<Real>(window.tokens());
    for (int64_t i = 0; i < end; i += LANES<Real>) store(sum + i, load(sum + i) + load(d_scores + i));
  }

  void end() {
    for (int64_t t = 0; parts_ && t < tangents_; ++t) flush(t);
  }

 private:
  void flush(int64_t t) {
    Real *const sum = sums_.tile(t), *const part = part_ + t * p_.table_entries();
    const int64_t stride = sums_.stride();
    for_pairs(p_, size_[t], [&](int64_t j, int64_t i, int64_t place) ALTERNET_BODY { part[place] += sum[j * stride + i]; });
    std::fill_n(sum, stride * stride, Real(0));
  }

  const WindowProblem& p_;
  Real* parts_;
  int64_t tangents_;
  Tiles<Real> sums_;
  Window* size_;
  Real* part_ = nullptr;
};

}  // namespace alternet::ALTERNET_ISA
