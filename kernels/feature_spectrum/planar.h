// Maps whose rows are contiguous: vectors run along the rows. Included once per instruction set.
#pragma once

#include "csrc/pack.h"
#include "feature_spectrum/transform.h"

namespace alternet::ALTERNET_ISA {

/// Rows of one map, LANES at a time: what they add to the map's sums.
template <typename Real>
class PlanarMap {
  static constexpr int lanes = LANES<Real>;
  using Integer = typename VectorTypes<Real>::Integer;
  static constexpr int CHAINS = 4;       // sums that do not wait for one another
  static constexpr int64_t FLUSH = 64;   // rows whose sums are in the arithmetic type: longer ones would lose digits
  // What will be read next is sent for 4 KiB before: 13 % of the time at 56 x 56, from memory, on Zen 3.
  static constexpr int64_t LINE = 64 / sizeof(Real), AHEAD = 64 * LINE;

 public:
  PlanarMap(const SpectrumProblem& p, Carver& scratch) : p_(p) {
    buffer_ = scratch.take<Real>(lanes * p.width + span());
    window_ = scratch.take<Integer>(span() + lanes);
  }

  /// To be called before the first map.
  void prepare() {
    for (int64_t j = 0; j < span() + lanes; ++j) window_[j] = lanes <= j && j < lanes + p_.width ? -1 : 0;
  }

  /// Numbers that a line of anti-diagonal sums takes, with room for whole vectors.
  static int64_t line_length(const SpectrumProblem& p) { return padded<Real>(p.height + p.width - 1 + 2 * lanes); }

  /// line[j] = the sum over h + w = j, j = 0 .. H + W - 2; returns the variance.
  double reduce_map(int64_t b, int64_t c, Real* line) {
    std::memset(line, 0, line_length(p_) * sizeof(Real));
    Moments moments;
    double sum = 0, squares = 0;
    Real shift = 0;
    for (int64_t h = 0; h < p_.height; h += lanes) {
      const Matrix block{const_cast<char*>(p_.at(b, c, h)), p_.type, p_.stride.row, p_.stride.column};
      const int64_t rows = std::min<int64_t>(lanes, p_.height - h);
      const Rows<Real> from = readable(block, rows);
      if (h == 0) shift = run_sum(from.data, p_.width) / p_.width;
      add_diagonals(line + h, from, rows);
      add_moments(from, rows, shift, moments);
      if ((h + lanes) % FLUSH == 0 || h + lanes >= p_.height) moments.flush(sum, squares);
    }
    return shifted_variance(sum, squares, p_.pixels());
  }

 private:
  /// Sums of x - shift and of its square.
  struct Moments {
    Vector<Real> sum[CHAINS]{}, squares[CHAINS]{};

    ALTERNET_INLINE void add(int chain, Vector<Real> centred) {
      sum[chain] += centred;
      squares[chain] += centred * centred;
    }

    ALTERNET_INLINE void flush(double& to_sum, double& to_squares) {
      to_sum += reduce<Sum, Real>((sum[0] + sum[1]) + (sum[2] + sum[3]));
      to_squares += reduce<Sum, Real>((squares[0] + squares[1]) + (squares[2] + squares[3]));
      *this = {};
    }
  };

  /// Numbers behind the first of a row that may be read, though not used.
  int64_t span() const { return p_.width + 2 * lanes; }

  /// The rows where they lie, if whole vectors may be read there, else converted.
  Rows<Real> readable(const Matrix& block, int64_t rows) {
    const char* last = block.at(rows - 1) + span() * static_cast<int64_t>(sizeof(Real));
    if (in_place<Real>(block) && block.row > 0 && last <= p_.end)
      return {reinterpret_cast<const Real*>(block.data), block.row};
    for (int64_t i = 0; i < rows; ++i)
      widen(buffer_ + i * p_.width, block.at(i), block.type, block.column, p_.width);
    return {buffer_, p_.width};
  }

  /// Row i goes i places to the right. The sums of a vector stay in a register over the rows, and no vector of `line`
  /// is read at another offset than it was written at: that would wait for the write.
  void add_diagonals(Real* line, Rows<Real> from, int64_t rows) {
    const int64_t step = from.stride - 1;
    for (int64_t j = 0; j < p_.width + rows - 1; j += lanes) {
      const Real* x = from.data + j;
      Vector<Real> even = load(line + j), odd{};
      if (j > 0 && j + lanes <= p_.width && rows == lanes) {
        ALTERNET_UNROLL
        for (int i = 0; i < lanes; i += 2) {
          even += load(x + i * step);
          odd += load(x + (i + 1) * step);
        }
      } else {
        for (int64_t i = 0; i < rows; ++i) even += where<Real>(inside(j - i), load(x + i * step), Vector<Real>{});
      }
      store(line + j, even + odd);
    }
  }

  /// The lanes that are in a row when the first lane is its number j, -LANES < j < W + LANES.
  Bits<Real> inside(int64_t j) const {
    Bits<Real> mask;
    std::memcpy(&mask, window_ + lanes + j, sizeof mask);
    return mask;
  }

  static Real run_sum(const Real* x, int64_t n) {
    Vector<Real> sum{};
    for (int64_t j = 0; j < n; j += lanes) sum += where<Real>(first_lanes<Real>(n - j), load(x + j), Vector<Real>{});
    return reduce<Sum, Real>(sum);
  }

  void add_moments(Rows<Real> from, int64_t rows, Real shift, Moments& moments) {
    const bool one_run = from.stride == p_.width;
    const int64_t runs = one_run ? 1 : rows, length = one_run ? rows * p_.width : p_.width;
    for (int64_t i = 0; i < runs; ++i) {
      const Real* x = from.data + i * from.stride;
      int64_t j = 0;
      for (; j + CHAINS * lanes <= length; j += CHAINS * lanes) {
        for (int64_t next = 0; next < CHAINS * lanes; next += LINE) __builtin_prefetch(x + j + AHEAD + next);
        ALTERNET_UNROLL
        for (int v = 0; v < CHAINS; ++v) moments.add(v, load(x + j + v * lanes) - shift);
      }
      for (; j < length; j += lanes)
        moments.add(0, where<Real>(first_lanes<Real>(length - j), load(x + j) - shift, Vector<Real>{}));
    }
  }

  const SpectrumProblem& p_;
  Real* buffer_;
  Integer* window_;
};

template <typename Real>
class PlanarSpectrum {
  static constexpr int lanes = LANES<Real>;

 public:
  PlanarSpectrum(const SpectrumProblem& p, Carver& scratch)
      : p_(p), half_diagonal_(p, scratch), map_(p, scratch), length_(PlanarMap<Real>::line_length(p)) {
    lines_ = scratch.take<Real>(lanes * length_);
    sums_ = scratch.take<Real>(lanes * length_);
  }

  /// to[0 .. K) = sums of the log amplitudes, to[K] = of the variances of the task's maps.
  void run(const SpectrumTask& task, double* to) {
    half_diagonal_.clear();
    map_.prepare();
    double variances = 0;
    for (int64_t c = task.first; c < task.last; c += lanes) {
      const int64_t maps = std::min<int64_t>(lanes, task.last - c);
      for (int64_t i = 0; i < maps; ++i) variances += map_.reduce_map(task.b, c + i, lines_ + i * length_);
      std::memset(lines_ + maps * length_, 0, (lanes - maps) * length_ * sizeof(Real));
      transpose_lines();
      half_diagonal_.add(sums_, p_.height + p_.width - 1, lanes, maps);
    }
    half_diagonal_.finish(to);
    to[p_.frequencies()] = variances;
  }

 private:
  void transpose_lines() {
    for (int64_t j = 0; j < p_.height + p_.width - 1; j += lanes) {
      Vector<Real> tile[lanes];
      ALTERNET_UNROLL
      for (int i = 0; i < lanes; ++i) tile[i] = load(lines_ + i * length_ + j);
      transpose<Real>(tile);
      ALTERNET_UNROLL
      for (int i = 0; i < lanes; ++i) store(sums_ + (j + i) * lanes, tile[i]);
    }
  }

  const SpectrumProblem& p_;
  HalfDiagonal<Real> half_diagonal_;
  PlanarMap<Real> map_;
  int64_t length_;
  Real *lines_, *sums_;
};

}  // namespace alternet::ALTERNET_ISA
