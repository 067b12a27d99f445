// Maps whose channels are contiguous (channels_last, tokens): vectors run over channels. Included once per instruction
// set.
#pragma once

#include "csrc/pack.h"
#include "feature_spectrum/transform.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
class InterleavedSpectrum {
  static constexpr int lanes = LANES<Real>, vectors = 4, strip = vectors * lanes;  // channels handled together
  static constexpr int64_t LINE = 64 / sizeof(Real);  // the next row is sent for: twice as fast from memory, on Zen 3

 public:
  InterleavedSpectrum(const SpectrumProblem& p, Carver& scratch) : p_(p), half_diagonal_(p, scratch) {
    const int64_t strips = (p.chunk + strip - 1) / strip;
    buffer_ = scratch.take<Real>(p.width * strip);
    shift_ = scratch.take<Real>(strips * strip);
    sum_ = scratch.take<Real>(strips * strip);
    squares_ = scratch.take<Real>(strips * strip);
    lines_ = scratch.take<Real>(strips * line());
  }

  /// to[0 .. K) = sums of the log amplitudes, to[K] = of the variances of the task's maps.
  void run(const SpectrumTask& task, double* to) {
    const int64_t channels = task.last - task.first, strips = (channels + strip - 1) / strip;
    std::memset(lines_, 0, strips * line() * sizeof(Real));
    std::memset(sum_, 0, strips * strip * sizeof(Real));
    std::memset(squares_, 0, strips * strip * sizeof(Real));
    for (int64_t h = 0; h < p_.height; ++h)
      for (int64_t i = 0; i < strips; ++i) {
        const Rows<Real> from = row(task.b, task.first + i * strip, h, std::min<int64_t>(strip, channels - i * strip));
        if (h == 0) take_shift(from, shift_ + i * strip);
        add_row(from, h, i);
      }
    half_diagonal_.clear();
    for (int64_t c = 0; c < channels; c += lanes) {
      const Real* sums = lines_ + c / strip * line() + c % strip;
      half_diagonal_.add(sums, p_.period(), strip, std::min<int64_t>(lanes, channels - c));
    }
    half_diagonal_.finish(to);
    double variances = 0;
    for (int64_t c = 0; c < channels; ++c) variances += shifted_variance(sum_[c], squares_[c], p_.pixels());
    to[p_.frequencies()] = variances;
  }

 private:
  /// Numbers of the wrapped anti-diagonal sums of a strip, [n][strip].
  int64_t line() const { return p_.period() * strip; }

  /// Row h of `count` channels, [W][strip]: where it lies if the strip is full, else converted with zeros.
  Rows<Real> row(int64_t b, int64_t c, int64_t h, int64_t count) {
    const char* from = p_.at(b, c, h);
    if (p_.type == element_of<Real>() && count == strip) return {reinterpret_cast<const Real*>(from), p_.stride.column};
    for (int64_t w = 0; w < p_.width; ++w) {
      widen(buffer_ + w * strip, p_.at(b, c, h, w), p_.type, 1, count);
      for (int64_t i = count; i < strip; ++i) buffer_[w * strip + i] = 0;
    }
    return {buffer_, strip};
  }

  void take_shift(Rows<Real> from, Real* shift) const {
    Vector<Real> sum[vectors]{};
    for (int64_t w = 0; w < p_.width; ++w) {
      ALTERNET_UNROLL
      for (int v = 0; v < vectors; ++v) sum[v] += load(from.data + w * from.stride + v * lanes);
    }
    ALTERNET_UNROLL
    for (int v = 0; v < vectors; ++v) store(shift + v * lanes, sum[v] / static_cast<Real>(p_.width));
  }

  /// Sums of a row are taken in registers and added to those of the map: as exact as sums by halves, nearly.
  void add_row(Rows<Real> from, int64_t h, int64_t i) {
    Vector<Real> shift[vectors], sum[vectors]{}, squares[vectors]{};
    ALTERNET_UNROLL
    for (int v = 0; v < vectors; ++v) shift[v] = load(shift_ + i * strip + v * lanes);
    Real* const line_start = lines_ + i * line();
    const Real* x = from.data;
    int64_t j = h;
    for (int64_t w = 0; w < p_.width; ++w, x += from.stride) {
      Real* to = line_start + j * strip;
      for (int64_t next = 0; next < strip; next += LINE) __builtin_prefetch(x + from.stride * p_.width + next);
      ALTERNET_UNROLL
      for (int v = 0; v < vectors; ++v) {
        const Vector<Real> value = load(x + v * lanes), centred = value - shift[v];
        sum[v] += centred;
        squares[v] += centred * centred;
        store(to + v * lanes, load(to + v * lanes) + value);
      }
      if (++j == p_.period()) j = 0;
    }
    ALTERNET_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const int64_t c = i * strip + v * lanes;
      store(sum_ + c, load(sum_ + c) + sum[v]);
      store(squares_ + c, load(squares_ + c) + squares[v]);
    }
  }

  const SpectrumProblem& p_;
  HalfDiagonal<Real> half_diagonal_;
  Real *buffer_, *shift_, *sum_, *squares_, *lines_;
};

}  // namespace alternet::ALTERNET_ISA
