// The operands of the maps as a task holds them: keys whole, queries a tile at a time, sums in padded rows. Each
// stands for one tensor (tangents = 1), or for the T tangents of one; an absent or unwanted one takes no memory and
// does nothing. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "attention/tiles.h"

namespace alternet::ALTERNET_ISA {

static_assert(MAX_WIDTH <= MAX_COLUMNS);

/// Keys or values of one (batch, head) as right-hand sides of products over features: [columns, M], packed once a task.
template <typename Real>
class KeysTransposed {
 public:
  KeysTransposed(const Problem& p, const Operand& operand, int64_t tangents, int64_t columns, bool wanted,
                 Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand && wanted ? tangents : 0),
        size_(padded<Real>(p.keys) * columns),
        memory_(scratch.take<Real>(tangents_ * size_)) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, int64_t keys) {
    for (int64_t t = 0; t < tangents_; ++t)
      pack_transposed(from_.slice(task.b, task.h, t), keys, columns_, memory_ + t * size_);
  }

  /// What lies under a tile of keys.
  Panels<Real> under(Range keys, int64_t t = 0) const {
    return packed<Real>(memory_ + t * size_, columns_).right(keys.first);
  }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Real* memory_;
};

/// Rows of a tensor as right-hand sides of products over those rows: where they lie, or packed.
template <typename Real>
class RowPanels {
 public:
  RowPanels(const Operand& operand, int64_t tangents, int64_t rows, int64_t columns, bool wanted, Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand && wanted ? tangents : 0),
        size_(rows * padded<Real>(columns)),
        panels_(scratch.take<Panels<Real>>(tangents_)),
        memory_(scratch.take<Real>(tangents_ * size_)) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, Range rows) {
    for (int64_t t = 0; t < tangents_; ++t) {
      const Matrix from = from_.slice(task.b, task.h, t);
      if (panels_in_place<Real>(from, columns_))
        panels_[t] = {reinterpret_cast<const Real*>(from.at(rows.first)), LANES<Real>, from.row};
      else
        panels_[t] = pack(from, rows.first, rows.count, columns_, memory_ + t * size_);
    }
  }

  /// Those from row `first` of the loaded ones on.
  Panels<Real> below(int64_t first, int64_t t = 0) const { return panels_[t].below(first); }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Panels<Real>* panels_;
  Real* memory_;
};

/// A tensor with a row for each query, loaded for each tile: as left-hand sides of products and, if asked for, as
/// right-hand sides of products over queries.
template <typename Real>
class QueryRows {
 public:
  QueryRows(const Problem& p, const Operand& operand, int64_t tangents, int64_t columns, bool with_panels,
            Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand ? tangents : 0),
        size_(p.plan.tile_rows * columns),
        rows_(scratch.take<Rows<Real>>(tangents_)),
        copies_(scratch.take<Real>(tangents_ * size_)),
        panels_(operand, tangents, p.plan.tile_rows, columns, with_panels, scratch) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, Range queries) {
    for (int64_t t = 0; t < tangents_; ++t)
      rows_[t] = rows_of(from_.slice(task.b, task.h, t), queries.first, queries.count, columns_, copies_ + t * size_);
    panels_.load(task, queries);
  }

  Rows<Real> rows(int64_t t = 0) const { return rows_[t]; }
  const Real* row(int64_t r, int64_t t = 0) const { return rows_[t].data + r * rows_[t].stride; }
  Panels<Real> panels(int64_t t = 0) const { return panels_.below(0, t); }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Rows<Real>* rows_;
  Real* copies_;
  RowPanels<Real> panels_;
};

/// Sums [T, rows, columns] of a result on their way.
template <typename Real>
class Sums {
 public:
  Sums(const Operand& result, int64_t tangents, int64_t rows, int64_t columns, Carver& scratch)
      : result_(result),
        tangents_(result ? tangents : 0),
        rows_(rows),
        columns_(columns),
        memory_(scratch.take<Real>(tangents_ * rows * stride())) {}

  explicit operator bool() const { return tangents_ > 0; }

  int64_t stride() const { return padded<Real>(columns_); }
  Real* row(int64_t r, int64_t t = 0) const { return memory_ + (t * rows_ + r) * stride(); }

  void clear(int64_t rows) {
    for (int64_t t = 0; t < tangents_; ++t) std::fill_n(row(0, t), rows * stride(), Real(0));
  }

  /// Writes rows [0, rows) to rows `first` .. of the result, times `factor`; adds them if told to.
  void write(const Task& task, int64_t first, int64_t rows, Real factor, bool add = false) const {
    for (int64_t t = 0; t < tangents_; ++t)
      write_rows<Real>({row(0, t), stride()}, rows, columns_, factor, result_.slice(task.b, task.h, t), first, add);
  }

 private:
  Operand result_;
  int64_t tangents_, rows_, columns_;
  Real* memory_;
};

/// A tile of scores: [tile_rows, tile_keys].
template <typename Real>
class ScoreTile {
 public:
  ScoreTile(const Problem& p, bool wanted, Carver& scratch)
      : stride_(score_stride<Real>(p)), memory_(scratch.take<Real>(wanted ? p.plan.tile_rows * stride_ : 0)) {}

  Real* row(int64_t r) const { return memory_ + r * stride_; }

  /// As a left-hand side, or its transpose's source.
  Rows<Real> rows() const { return {memory_, stride_}; }

  /// this = sum over terms, over the features.
  void multiply_into(Range queries, Range keys, int64_t depth, const Term<Real>* terms, int count) {
    multiply(queries.count, keys.count, depth, terms, count, memory_, stride_, false);
  }

 private:
  int64_t stride_;
  Real* memory_;
};

}  // namespace alternet::ALTERNET_ISA
