// The operands of the maps as a task holds them: keys whole, queries a tile at a time, sums in padded rows. Each
// stands for one tensor (tangents = 1), or for the T tangents of one; an absent or unwanted one takes no memory and
// does nothing. Factor is what products multiply (csrc/product.h). Included once per instruction set (csrc/vector.h).
#pragma once

#include "attention/tiles.h"

namespace alternet::ALTERNET_ISA {

static_assert(MAX_WIDTH <= MAX_COLUMNS);

/// Keys or values of one (batch, head) as right-hand sides of products over features: [columns, M], packed once a task.
template <typename Factor>
class KeysTransposed {
 public:
  KeysTransposed(const Problem& p, const Operand& operand, int64_t tangents, int64_t columns, bool wanted,
                 Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand && wanted ? tangents : 0),
        size_(padded<Factor>(p.keys) * factors<Factor>(columns)),
        memory_(scratch.take<Factor>(tangents_ * size_)) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, int64_t keys) {
    for (int64_t t = 0; t < tangents_; ++t)
      pack_transposed(from_.slice(task.b, task.h, t), keys, columns_, memory_ + t * size_);
  }

  /// What lies under a tile of keys.
  Panels<Factor> under(Range keys, int64_t t = 0) const {
    return packed<Factor>(memory_ + t * size_, factors<Factor>(columns_)).right(keys.first);
  }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Factor* memory_;
};

/// Rows of a tensor as right-hand sides of products over those rows: where they lie, or packed.
template <typename Factor>
class RowPanels {
 public:
  RowPanels(const Operand& operand, int64_t tangents, int64_t rows, int64_t columns, bool wanted, Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand && wanted ? tangents : 0),
        size_(factors<Factor>(rows) * padded<Factor>(columns)),
        panels_(scratch.take<Panels<Factor>>(tangents_)),
        memory_(scratch.take<Factor>(tangents_ * size_)) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, Range rows) {
    for (int64_t t = 0; t < tangents_; ++t) {
      const Matrix from = from_.slice(task.b, task.h, t);
      if (!IS_PAIR<Factor> && panels_in_place<Factor>(from, columns_))
        panels_[t] = {reinterpret_cast<const Factor*>(from.at(rows.first)), LANES<Factor>, from.row};
      else
        panels_[t] = pack(from, rows.first, rows.count, columns_, memory_ + t * size_);
    }
  }

  /// Those from row `first` of the loaded ones on.
  Panels<Factor> below(int64_t first, int64_t t = 0) const { return panels_[t].below(factor_at<Factor>(first)); }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Panels<Factor>* panels_;
  Factor* memory_;
};

/// A tensor with a row for each query, loaded for each tile: as left-hand sides of products and, if asked for, as
/// right-hand sides of products over queries.
template <typename Factor>
class QueryRows {
 public:
  QueryRows(const Problem& p, const Operand& operand, int64_t tangents, int64_t columns, bool with_panels,
            Carver& scratch)
      : from_(operand),
        columns_(columns),
        tangents_(operand ? tangents : 0),
        size_(rows_held<Factor>(p.plan.tile_rows) * factors<Factor>(columns)),
        rows_(scratch.take<Rows<Factor>>(tangents_)),
        copies_(scratch.take<Factor>(tangents_ * size_)),
        panels_(operand, tangents, p.plan.tile_rows, columns, with_panels, scratch) {}

  explicit operator bool() const { return tangents_ > 0; }

  void load(const Task& task, Range queries) {
    for (int64_t t = 0; t < tangents_; ++t)
      rows_[t] = rows_of(from_.slice(task.b, task.h, t), queries.first, queries.count, columns_, copies_ + t * size_);
    panels_.load(task, queries);
  }

  Rows<Factor> rows(int64_t t = 0) const { return rows_[t]; }
  Panels<Factor> panels(int64_t t = 0) const { return panels_.below(0, t); }

 private:
  Operand from_;
  int64_t columns_, tangents_, size_;
  Rows<Factor>* rows_;
  Factor* copies_;
  RowPanels<Factor> panels_;
};

/// Sums [T, rows, columns] of a result on their way.
template <typename Factor>
class Sums {
 public:
  using Real = SumOf<Factor>;

  Sums(const Operand& result, int64_t tangents, int64_t rows, int64_t columns, Carver& scratch)
      : result_(result),
        tangents_(result ? tangents : 0),
        rows_(rows_held<Factor>(rows)),
        columns_(columns),
        memory_(scratch.take<Real>(tangents_ * rows_ * stride())) {}

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

/// A tile of scores: [tile_rows, tile_keys], and where products multiply pairs its roundings. `with_rows` and
/// `with_columns` say which of those products read.
template <typename Factor>
class ScoreTile {
 public:
  using Real = SumOf<Factor>;

  ScoreTile(const Problem& p, bool wanted, bool with_rows, bool with_columns, Carver& scratch)
      : stride_(score_stride<Real>(p)),
        memory_(scratch.take<Real>(wanted ? rows_held<Factor>(p.plan.tile_rows) * stride_ : 0)),
        rounded_rows_(copy(wanted && with_rows, p.plan.tile_rows, p.plan.tile_keys, scratch)),
        rounded_columns_(copy(wanted && with_columns, p.plan.tile_keys, p.plan.tile_rows, scratch)) {}

  Real* row(int64_t r) const { return memory_ + r * stride_; }

  /// this = sum over terms, over a depth of `features`.
  void multiply_into(Range queries, Range keys, int64_t features, const Term<Factor>* terms, int count) {
    multiply(queries.count, keys.count, factors<Factor>(features), terms, count, memory_, stride_, false);
  }

  /// The scores are what products are to read.
  void settle(Range queries, Range keys) {
    if constexpr (IS_PAIR<Factor>) {
      width_ = keys.count;
      height_ = queries.count;
      if (rounded_rows_) round_rows(memory_, stride_, height_, width_, rounded_rows_);
      if (rounded_columns_) round_columns(memory_, stride_, height_, width_, rounded_columns_);
    }
  }

  /// As the left-hand side of a product over keys.
  Rows<Factor> rows() const {
    if constexpr (IS_PAIR<Factor>) return {rounded_rows_, factors<Factor>(width_)};
    else return {memory_, stride_};
  }

  /// c[keys, columns] += sum over terms of A^T B, each A the `columns` of a tile: a product over queries.
  static void multiply_over_queries(Range queries, Range keys, int64_t columns, const Term<Factor>* terms, int count,
                                    Real* c, int64_t c_stride) {
    multiply<Factor, !IS_PAIR<Factor>>(keys.count, columns, factors<Factor>(queries.count), terms, count, c, c_stride,
                                       true);
  }
  Rows<Factor> columns() const {
    if constexpr (IS_PAIR<Factor>) return {rounded_columns_, factors<Factor>(height_)};
    else return {memory_, stride_};
  }

 private:
  static Factor* copy(bool wanted, int64_t rows, int64_t depth, Carver& scratch) {
    return IS_PAIR<Factor> && wanted ? scratch.take<Factor>(rows_held<Factor>(rows) * factors<Factor>(depth)) : nullptr;
  }

  int64_t stride_;
  Real* memory_;
  Factor *rounded_rows_, *rounded_columns_;
  int64_t width_ = 0, height_ = 0;
};

}  // namespace alternet::ALTERNET_ISA
