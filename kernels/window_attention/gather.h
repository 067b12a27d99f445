// Windows of a map as planes, one row of tokens a channel, and planes as windows of a map again. Included once per
// instruction set (see csrc/vector.h).
//
// A strip of windows is a stretch of memory in each channel of a map [C, H, W]: a block of windows is read together, so
// that cache lines are. In channels-last maps a token is one: tokens are transposed, a square of vectors at a time.
#pragma once

#include "csrc/pack.h"
#include "window_attention/problem.h"

namespace alternet::ALTERNET_ISA {

/// Where the planes of a block lie: of window k and channel c from data + k * window + c * stride on.
template <typename Real>
struct PlaneArray {
  Real* data;
  int64_t channels, window, stride;

  Real* plane(int64_t k, int64_t c) const { return data + k * window + c * stride; }
};

/// Clears the last vector of a plane, if tokens do not fill it.
template <typename Real>
ALTERNET_INLINE void clear_end(Real* plane, int64_t tokens) {
  if (tokens % LANES<Real>) store(plane + padded<Real>(tokens) - LANES<Real>, Vector<Real>{});
}

/// Four numbers, whatever the width of a vector.
template <typename Real>
struct FourTypes;
template <>
struct FourTypes<float> {
  typedef float Vector __attribute__((vector_size(16)));
};
template <>
struct FourTypes<double> {
  typedef double Vector __attribute__((vector_size(32)));
};

/// to[0 .. N) = factor from[0 .. N), 4 <= N <= 8: the last four may overlap the first.
template <int N, typename Real>
ALTERNET_INLINE void copy(Real* to, const Real* from, Real factor) {
  typename FourTypes<Real>::Vector first, last;
  std::memcpy(&first, from, sizeof first);
  std::memcpy(&last, from + N - 4, sizeof last);
  first *= factor;
  last *= factor;
  std::memcpy(to, &first, sizeof first);
  if constexpr (N > 4) std::memcpy(to + N - 4, &last, sizeof last);
}

/// Sends for `count` numbers. Channels lie far apart in a map: the processor does not guess where the next one begins.
template <bool TO_WRITE = false, typename Real>
ALTERNET_INLINE void prefetch(const Real* from, int64_t count) {
  constexpr int64_t line = 64 / sizeof(Real);
  for (int64_t i = 0; i < count; i += line) __builtin_prefetch(from + i, TO_WRITE);
  __builtin_prefetch(from + count - 1, TO_WRITE);
}

constexpr int64_t CHANNELS_AHEAD = 8;

/// Rows are contiguous, all windows have COLUMNS columns.
template <int COLUMNS, typename Real>
void gather_rows(const FeatureMap& from, const Block& block, int64_t t, PlaneArray<Real> to) {
  const Window window = block.window(0);
  for (int64_t c = 0; c < to.channels; ++c) {
    for (int64_t k = 0; k < block.count; ++k) clear_end(to.plane(k, c), window.tokens());
    const auto* row = reinterpret_cast<const Real*>(from.at(t, block.b, block.h, c, window.top, window.left));
    for (int64_t r = 0; r < window.rows; ++r, row += from.row) {
      prefetch(row + CHANNELS_AHEAD * from.channel, block.count * COLUMNS);
      Real* plane = to.plane(0, c) + r * COLUMNS;
      for (int64_t k = 0; k < block.count; ++k, plane += to.window) copy<COLUMNS>(plane, row + k * COLUMNS, Real(1));
    }
  }
}

template <int COLUMNS, typename Real>
void scatter_rows(const FeatureMap& to, const Block& block, int64_t t, Real factor, PlaneArray<Real> from) {
  const Window window = block.window(0);
  for (int64_t c = 0; c < from.channels; ++c) {
    auto* row = reinterpret_cast<Real*>(to.at(t, block.b, block.h, c, window.top, window.left));
    for (int64_t r = 0; r < window.rows; ++r, row += to.row) {
      prefetch<true>(row + CHANNELS_AHEAD * to.channel, block.count * COLUMNS);
      const Real* plane = from.plane(0, c) + r * COLUMNS;
      for (int64_t k = 0; k < block.count; ++k, plane += from.window) copy<COLUMNS>(row + k * COLUMNS, plane, factor);
    }
  }
}

/// Pointers to LANES tokens of a window from `first` on; to `beyond` where there are no more.
template <typename Real>
struct Pixels {
  Real* at[LANES<Real>];

  Pixels(const FeatureMap& map, const Block& block, const Window& window, int64_t t, int64_t first, Real* beyond) {
    for (int64_t i = 0; i < LANES<Real>; ++i) {
      const int64_t token = first + i, y = window.top + token / window.columns;
      const int64_t x = window.left + token % window.columns;
      at[i] = token < window.tokens() ? reinterpret_cast<Real*>(map.at(t, block.b, block.h, 0, y, x)) : beyond;
    }
  }
};

/// Channels are contiguous.
template <typename Real>
void gather_pixels(const FeatureMap& from, const Block& block, int64_t t, PlaneArray<Real> to, Real* zeros) {
  constexpr int lanes = LANES<Real>;
  for (int64_t k = 0; k < block.count; ++k) {
    const Window window = block.window(k);
    for (int64_t first = 0; first < window.tokens(); first += lanes) {
      const Pixels<Real> pixels(from, block, window, t, first, zeros);
      int64_t c = 0;
      for (; c + lanes <= to.channels; c += lanes) {
        Vector<Real> tile[lanes];
        ALTERNET_UNROLL
        for (int i = 0; i < lanes; ++i) tile[i] = load(pixels.at[i] + c);
        transpose<Real>(tile);
        ALTERNET_UNROLL
        for (int i = 0; i < lanes; ++i) store(to.plane(k, c + i) + first, tile[i]);
      }
      for (; c < to.channels; ++c)
        for (int i = 0; i < lanes; ++i) to.plane(k, c)[first + i] = pixels.at[i][c];
    }
  }
}

template <typename Real>
void scatter_pixels(const FeatureMap& to, const Block& block, int64_t t, Real factor, PlaneArray<Real> from) {
  constexpr int lanes = LANES<Real>;
  for (int64_t k = 0; k < block.count; ++k) {
    const Window window = block.window(k);
    for (int64_t first = 0; first < window.tokens(); first += lanes) {
      const Pixels<Real> pixels(to, block, window, t, first, nullptr);
      const int count = static_cast<int>(std::min<int64_t>(lanes, window.tokens() - first));
      int64_t c = 0;
      for (; c + lanes <= from.channels; c += lanes) {
        Vector<Real> tile[lanes];
        ALTERNET_UNROLL
        for (int i = 0; i < lanes; ++i) tile[i] = load(from.plane(k, c + i) + first) * factor;
        transpose<Real>(tile);
        ALTERNET_UNROLL
        for (int i = 0; i < lanes; ++i)
          if (i < count) store(pixels.at[i] + c, tile[i]);
      }
      for (; c < from.channels; ++c)
        for (int i = 0; i < count; ++i) pixels.at[i][c] = factor * from.plane(k, c)[first + i];
    }
  }
}

/// Any strides, any element type.
template <typename Real>
void gather_elements(const FeatureMap& from, const Block& block, int64_t t, PlaneArray<Real> to) {
  for (int64_t c = 0; c < to.channels; ++c)
    for (int64_t k = 0; k < block.count; ++k) {
      const Window window = block.window(k);
      clear_end(to.plane(k, c), window.tokens());
      for (int64_t r = 0; r < window.rows; ++r)
        widen(to.plane(k, c) + r * window.columns,
              from.at(t, block.b, block.h, c, window.top + r, window.left), from.type, from.column, window.columns);
    }
}

template <typename Real>
void scatter_elements(const FeatureMap& to, const Block& block, int64_t t, Real factor, PlaneArray<Real> from) {
  for (int64_t c = 0; c < from.channels; ++c)
    for (int64_t k = 0; k < block.count; ++k) {
      const Window window = block.window(k);
      for (int64_t r = 0; r < window.rows; ++r)
        for (int64_t x = 0; x < window.columns; ++x)
          write_row(from.plane(k, c) + r * window.columns + x, 1, factor,
                    to.at(t, block.b, block.h, c, window.top + r, window.left + x), to.type, false);
    }
}

/// How many columns all windows of a block have, if that is a width worth a loop of its own; else 0.
inline int64_t common_width(const Block& block) {
  const int64_t columns = block.window(0).columns;
  return block.window(block.count - 1).columns == columns && (block.count < 3 || columns == block.p.window_width)
             ? columns
             : 0;
}

template <typename Real>
void gather(const FeatureMap& from, const Block& block, int64_t t, PlaneArray<Real> to, Real* zeros) {
  if (from.type != element_of<Real>()) return gather_elements(from, block, t, to);
  if (from.channel == 1 && to.channels > 1) return gather_pixels(from, block, t, to, zeros);
  if (from.column != 1) return gather_elements(from, block, t, to);
  switch (common_width(block)) {
    case 4:
      return gather_rows<4>(from, block, t, to);
    case 7:
      return gather_rows<7>(from, block, t, to);
    case 8:
      return gather_rows<8>(from, block, t, to);
    default:
      return gather_elements<Real>(from, block, t, to);
  }
}

template <typename Real>
void scatter(const FeatureMap& to, const Block& block, int64_t t, Real factor, PlaneArray<Real> from) {
  if (to.type != element_of<Real>()) return scatter_elements(to, block, t, factor, from);
  if (to.channel == 1 && from.channels > 1) return scatter_pixels(to, block, t, factor, from);
  if (to.column != 1) return scatter_elements(to, block, t, factor, from);
  switch (common_width(block)) {
    case 4:
      return scatter_rows<4>(to, block, t, factor, from);
    case 7:
      return scatter_rows<7>(to, block, t, factor, from);
    case 8:
      return scatter_rows<8>(to, block, t, factor, from);
    default:
      return scatter_elements<Real>(to, block, t, factor, from);
  }
}

}  // namespace alternet::ALTERNET_ISA
