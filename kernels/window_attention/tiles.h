// What the maps of window attention hold: planes of a block of windows and tiles of scores. Included once per
// instruction set (see csrc/vector.h).
//
// Everything lies transposed, tokens along the vectors: a plane [channels, tokens] is the right-hand side of a product
// as it is, and either left-hand side. Scores are S^T, [keys, queries]: the softmax of a query runs down a column, for
// a vector of queries at once, and out^T = V^T P^T comes out as planes again.
#pragma once

#include "csrc/carver.h"
#include "csrc/exponential.h"
#include "window_attention/gather.h"

namespace alternet::ALTERNET_ISA {

/// The windows of a block of one tensor, of one tangent at a time. An absent one takes no memory.
template <typename Real>
class Planes {
 public:
  Planes(const WindowProblem& p, const FeatureMap& map, int64_t channels, Carver& scratch)
      : map_(map), channels_(map ? channels : 0), stride_(padded<Real>(p.most_tokens())) {
    memory_ = scratch.take<Real>(p.block * channels_ * stride_);
    zeros_ = scratch.take<Real>(map && map.channel == 1 ? channels_ : 0);
  }

  explicit operator bool() const { return channels_ > 0; }

  void load(const Block& block, int64_t t = 0) {
    if (channels_ == 0) return;
    if (map_.channel == 1) std::fill_n(zeros_, channels_, Real(0));
    gather(map_, block, t, array(), zeros_);
  }

  void write(const Block& block, Real factor, int64_t t = 0) const {
    if (channels_ > 0) scatter(map_, block, t, factor, array());
  }

  /// Window k as a left-hand side, itself or to be transposed.
  Rows<Real> rows(int64_t k) const { return {array().plane(k, 0), stride_}; }
  /// Window k as a right-hand side.
  Panels<Real> panels(int64_t k) const { return {array().plane(k, 0), LANES<Real>, stride_}; }

  /// Window k = sum over terms, each a plane times a tile.
  void multiply_into(int64_t k, int64_t tokens, const Term<Real>* terms, int count) {
    multiply(channels_, tokens, tokens, terms, count, array().plane(k, 0), stride_, false);
  }

 private:
  PlaneArray<Real> array() const { return {memory_, channels_, channels_ * stride_, stride_}; }

  FeatureMap map_;
  int64_t channels_, stride_;
  Real *memory_, *zeros_;
};

/// Tiles [keys, queries], or [queries, keys]: one for each of `count` windows, or one in turn for all.
template <typename Real>
class Tiles {
 public:
  Tiles(const WindowProblem& p, int64_t count, bool wanted, Carver& scratch)
      : count_(wanted ? count : 0),
        stride_(padded<Real>(p.most_tokens())),
        memory_(scratch.take<Real>(count_ * stride_ * stride_)) {}

  /// What no product writes, the rows beyond the tokens, is transposed into columns beyond them.
  void clear() { std::fill_n(memory_, count_ * stride_ * stride_, Real(0)); }

  int64_t stride() const { return stride_; }
  Real* tile(int64_t k = 0) const { return memory_ + (count_ > 1 ? k : 0) * stride_ * stride_; }
  Panels<Real> panels(int64_t k = 0) const { return {tile(k), LANES<Real>, stride_}; }

  /// Tile k = sum over terms of transpose(plane) times plane.
  void multiply_into(int64_t k, int64_t tokens, int64_t channels, const Term<Real>* terms, int count) {
    multiply<Real, true>(tokens, tokens, channels, terms, count, tile(k), stride_, false);
  }

  /// Tile k = transpose of a tile of `from`.
  void transpose_of(const Tiles& from, int64_t from_k, int64_t k, int64_t tokens) {
    constexpr int lanes = LANES<Real>;
    for (int64_t j = 0; j < tokens; j += lanes)
      for (int64_t i = 0; i < tokens; i += lanes) {
        Vector<Real> square[lanes];
        ALTERNET_UNROLL
        for (int r = 0; r < lanes; ++r) square[r] = load(from.tile(from_k) + (j + r) * stride_ + i);
        transpose<Real>(square);
        ALTERNET_UNROLL
        for (int r = 0; r < lanes; ++r) store(tile(k) + (i + r) * stride_ + j, square[r]);
      }
  }

 private:
  int64_t count_, stride_;
  Real* memory_;
};

/// How many tiles of the primal outlast their window: several tangents share them.
inline int64_t kept_tiles(const WindowProblem& p) { return p.tangents > 1 ? p.block : 1; }

}  // namespace alternet::ALTERNET_ISA
