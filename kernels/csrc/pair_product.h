// Products of pairs of bfloat16, summed in float: by the vector instruction for them, or in the tiles of AMX. Included
// once per instruction set that has either (see vector.h).
#pragma once

#include "product.h"

namespace alternet::ALTERNET_ISA {

/// Two products a lane.
template <>
ALTERNET_INLINE void add_product<Pair>(Vector<float>& sum, Pair factor, Vector<Pair> column) {
  const __m512i repeated = _mm512_set1_epi32(static_cast<int>(factor));
  const auto pairs = reinterpret_cast<__m512bh>(repeated), columns = reinterpret_cast<__m512bh>(column);
  sum = reinterpret_cast<Vector<float>>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), pairs, columns));
}

#if defined(ALTERNET_AMX)

/// All eight tiles as 16 rows of 64 bytes, for the time of a task: other libraries set them up for themselves.
template <>
class ProductUnit<Pair> {
 public:
  ProductUnit() {
    alignas(64) struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } setup;
    asm volatile("ldtilecfg %0" ::"m"(setup));
  }
  ~ProductUnit() { asm volatile("tilerelease"); }
  ProductUnit(const ProductUnit&) = delete;
  ProductUnit& operator=(const ProductUnit&) = delete;
};

// The instructions are written out: the compilers' own forms do not say that they read and write memory.
template <int TILE_NUMBER>
ALTERNET_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE_NUMBER));
}

template <int TILE_NUMBER, typename Number>
ALTERNET_INLINE void load_tile(const Number* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride * 4), "i"(TILE_NUMBER) : "memory");
}

template <int TILE_NUMBER>
ALTERNET_INLINE void store_tile(float* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride * 4), "i"(TILE_NUMBER) : "memory");
}

template <int C, int A, int B>
ALTERNET_INLINE void multiply_tile() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

/// Tiles 0 to 3 are ROWS x STRIP tiles of C, 4 and 5 of A, 6 and 7 of B.
template <int ROWS, int STRIP>
ALTERNET_INLINE void begin_tiles(const float* c, int64_t c_stride, bool accumulate) {
  if (!accumulate) {
    clear_tile<0>();
    clear_tile<1>();
    clear_tile<2>();
    clear_tile<3>();
    return;
  }
  load_tile<0>(c, c_stride);
  if constexpr (STRIP > 1) load_tile<1>(c + TILE, c_stride);
  if constexpr (ROWS > 1) load_tile<2>(c + TILE * c_stride, c_stride);
  if constexpr (ROWS > 1 && STRIP > 1) load_tile<3>(c + TILE * c_stride + TILE, c_stride);
}

template <int ROWS, int STRIP>
ALTERNET_INLINE void end_tiles(float* c, int64_t c_stride) {
  store_tile<0>(c, c_stride);
  if constexpr (STRIP > 1) store_tile<1>(c + TILE, c_stride);
  if constexpr (ROWS > 1) store_tile<2>(c + TILE * c_stride, c_stride);
  if constexpr (ROWS > 1 && STRIP > 1) store_tile<3>(c + TILE * c_stride + TILE, c_stride);
}

/// One step down the depth of one term.
template <int ROWS, int STRIP>
ALTERNET_INLINE void step_tiles(Rows<Pair> a, Panels<Pair> b) {
  load_tile<6>(b.data, b.row);
  load_tile<4>(a.data, a.stride);
  multiply_tile<0, 4, 6>();
  if constexpr (STRIP > 1) {
    load_tile<7>(b.data + b.panel, b.row);
    multiply_tile<1, 4, 7>();
  }
  if constexpr (ROWS > 1) {
    load_tile<5>(a.data + TILE * a.stride, a.stride);
    multiply_tile<2, 5, 6>();
  }
  if constexpr (ROWS > 1 && STRIP > 1) multiply_tile<3, 5, 7>();
}

template <int ROWS, int STRIP>
void multiply_tile_block(int64_t depth, const Term<Pair>* terms, int count, int64_t row, int64_t panel, float* c,
                         int64_t c_stride, bool accumulate) {
  begin_tiles<ROWS, STRIP>(c, c_stride, accumulate);
  for (int term = 0; term < count; ++term) {
    const Rows<Pair> a = terms[term].a;
    const Panels<Pair> b = terms[term].b.right(panel * TILE);
    for (int64_t k = 0; k < depth; k += TILE)
      step_tiles<ROWS, STRIP>({a.data + row * a.stride + k, a.stride}, b.below(k));
  }
  end_tiles<ROWS, STRIP>(c, c_stride);
}

/// STRIP tiles of columns of C, two tiles of rows at a time.
template <int STRIP>
void multiply_tile_strip(int64_t rows, int64_t depth, const Term<Pair>* terms, int count, int64_t panel, float* c,
                         int64_t c_stride, bool accumulate) {
  float* const at = c + panel * TILE;
  int64_t row = 0;
  for (; row + TILE < rows; row += 2 * TILE)
    multiply_tile_block<2, STRIP>(depth, terms, count, row, panel, at + row * c_stride, c_stride, accumulate);
  if (row < rows)
    multiply_tile_block<1, STRIP>(depth, terms, count, row, panel, at + row * c_stride, c_stride, accumulate);
}

/// Whole tiles of c are written, and of A read: rows have memory up to a multiple of TILE, depths zeros.
template <>
inline void multiply<Pair>(int64_t rows, int64_t columns, int64_t depth, const Term<Pair>* terms, int count, float* c,
                           int64_t c_stride, bool accumulate) {
  if (count == 0 && accumulate) return;
  const int64_t panels = padded<Pair>(columns) / TILE;
  int64_t panel = 0;
  for (; panel + 2 <= panels; panel += 2)
    multiply_tile_strip<2>(rows, depth, terms, count, panel, c, c_stride, accumulate);
  if (panel < panels) multiply_tile_strip<1>(rows, depth, terms, count, panel, c, c_stride, accumulate);
}

#endif

}  // namespace alternet::ALTERNET_ISA
