// Rows in the arithmetic type: where they lie if they have it, else converted in a buffer. Included once per
// instruction set (see vector.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/pack.h"
#include "csrc/rows.h"

namespace alternet::ALTERNET_ISA {

/// Cuts a thread's scratch memory into arrays; on no memory at all it only counts the bytes.
class Scratch {
 public:
  explicit Scratch(char* memory) : memory_(memory) {}

  template <typename X>
  X* take(int64_t count) {
    X* array = memory_ ? reinterpret_cast<X*>(memory_ + used_) : nullptr;
    used_ += (count * sizeof(X) + 63) / 64 * 64;
    return array;
  }

  bool counts() const { return memory_ == nullptr; }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

/// The rows of an input; every row of an absent one is `absent`.
template <typename Real>
class RowReader {
 public:
  RowReader(const RowTensor& from, int64_t columns, Scratch& scratch, Real absent = 0)
      : from_(from), columns_(columns), direct_(from && from.type == element_of<Real>()) {
    if (direct_) return;
    buffer_ = scratch.take<Real>(columns);
    if (!from && !scratch.counts()) std::fill_n(buffer_, columns, absent);
  }

  const Real* row(int64_t t, int64_t b, int64_t i) const { return row(t, b, i, columns_); }

  /// The first `columns` of a row, where it has no more.
  const Real* row(int64_t t, int64_t b, int64_t i, int64_t columns) const {
    if (direct_) return reinterpret_cast<const Real*>(from_.at(t, b, i));
    if (from_) widen(buffer_, from_.at(t, b, i), from_.type, 1, columns);
    return buffer_;
  }

 private:
  RowTensor from_;
  int64_t columns_;
  bool direct_;
  Real* buffer_ = nullptr;
};

/// The rows of a result: `row` gives where to write, `finish` brings it there. An absent one is written to a buffer.
template <typename Real>
class RowWriter {
 public:
  RowWriter(const RowTensor& to, int64_t columns, Scratch& scratch)
      : to_(to), columns_(columns), direct_(to && to.type == element_of<Real>()) {
    if (!direct_) buffer_ = scratch.take<Real>(columns);
  }

  Real* row(int64_t t, int64_t b, int64_t i) const {
    return direct_ ? reinterpret_cast<Real*>(to_.at(t, b, i)) : buffer_;
  }

  void finish(int64_t t, int64_t b, int64_t i) const { finish(t, b, i, columns_); }

  void finish(int64_t t, int64_t b, int64_t i, int64_t columns) const {
    if (to_ && !direct_) write_row(buffer_, columns, Real(1), to_.at(t, b, i), to_.type, false);
  }

 private:
  RowTensor to_;
  int64_t columns_;
  bool direct_;
  Real* buffer_ = nullptr;
};

/// Sums over the rows of a task, a column each: short blocks in the arithmetic type, blocks in double.
template <typename Real>
class ColumnSums {
 public:
  /// `totals` holds [task, tangent, column], and may be null: nothing is summed.
  ColumnSums(double* totals, const RowSizes& p, int64_t task, Scratch& scratch)
      : columns_(p.width), tangents_(p.tangents) {
    if (!totals) return;
    totals_ = totals + task * tangents_ * columns_;
    block_ = scratch.take<Real>(tangents_ * columns_);
    if (scratch.counts()) return;
    std::fill_n(totals_, tangents_ * columns_, 0.0);
    std::fill_n(block_, tangents_ * columns_, Real(0));
  }

  explicit operator bool() const { return block_ != nullptr; }
  /// The sums of tangent t, or null.
  Real* block(int64_t t = 0) const { return block_ ? block_ + t * columns_ : nullptr; }

  void row_done() {
    if (block_ && ++rows_ == BLOCK) flush();
  }

  void flush() {
    rows_ = 0;
    if (!block_) return;
    for (int64_t j = 0; j < tangents_ * columns_; ++j) totals_[j] += block_[j];
    std::fill_n(block_, tangents_ * columns_, Real(0));
  }

 private:
  static constexpr int64_t BLOCK = 32;
  int64_t columns_, tangents_, rows_ = 0;
  double* totals_ = nullptr;
  Real* block_ = nullptr;
};

/// A kernel class as an entry of the tables of rows.h.
template <typename Kernel, typename Problem>
struct RowEntry {
  static size_t scratch(const Problem& problem) {
    Scratch counter(nullptr);
    Kernel unused(problem, 0, counter);
    return counter.used();
  }
  static void run(const Problem& problem, int64_t task, char* memory) {
    Scratch scratch(memory);
    Kernel(problem, task, scratch).run();
  }
  static constexpr RowMap<Problem> map{&scratch, &run};
};

}  // namespace alternet::ALTERNET_ISA
