"""What the Triton kernels share: where a program works, how it reads a tile, what a score is.

Conventions of every kernel of this folder:

- One grid axis of programs (the other two stop at 65,535, and windows of images make more heads than that).
- Matrices come as a pointer and a tuple of five strides, in elements: tangent, batch, head, row, column. A primal has
  tangent stride 0, a broadcast axis stride 0. Offsets are 64-bit.
- Row vectors (lse, delta and their tangents) are contiguous float32 [(T,) B, H, N].
- ``None`` in place of a pointer is a zero tangent (or an absent bias, or a result nobody needs). It is a compile-time
  constant, and so is every tile made from it: its products are not multiplied, they are not compiled.
- ``rows`` are queries and ``columns`` are keys, shaped [BLOCK_M, 1] and [1, BLOCK_N], or, in the kernels that hold keys
  and sweep queries, [1, BLOCK_M] and [BLOCK_N, 1]: what is written with them holds for either orientation.
- Scores are kept in base 2 (multiplied by log2 e), since exp2 is the instruction that GPUs have.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def locate(tiles, T, H):
    """Tile, tangent, batch and head of this program; neighbours share a head, so that its matrices stay in cache."""
    program = tl.program_id(0)
    tile = program % tiles
    t = (program // tiles) % T
    head = program // tiles // T
    return tile, t.to(tl.int64), (head // H).to(tl.int64), (head % H).to(tl.int64)


@triton.jit
def matrix(ptr, strides, t, b, h):
    """Pointer to the first entry of the matrix of tangent t, batch b and head h; None stays None."""
    if ptr is None:
        return None
    else:
        return ptr + t * strides[0] + b * strides[1] + h * strides[2]


@triton.jit
def load_matrix_tile(ptr, strides, rows, ROWS, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Rows ``rows`` [BLOCK] of a matrix [ROWS, WIDTH]: a tile [BLOCK, BLOCK_WIDTH], zeros outside; None stays None."""
    if ptr is None:
        return None
    else:
        columns = tl.arange(0, BLOCK_WIDTH)
        offsets = rows[:, None].to(tl.int64) * strides[3] + columns[None, :].to(tl.int64) * strides[4]
        inside = rows[:, None] < ROWS
        if WIDTH < BLOCK_WIDTH:
            inside = inside & (columns[None, :] < WIDTH)
        return tl.load(ptr + offsets, mask=inside, other=0.0)


@triton.jit
def store_matrix_tile(ptr, strides, tile, rows, ROWS, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Writes what ``load_matrix_tile`` reads, rounded to the matrix's dtype."""
    columns = tl.arange(0, BLOCK_WIDTH)
    offsets = rows[:, None].to(tl.int64) * strides[3] + columns[None, :].to(tl.int64) * strides[4]
    inside = rows[:, None] < ROWS
    if WIDTH < BLOCK_WIDTH:
        inside = inside & (columns[None, :] < WIDTH)
    tl.store(ptr + offsets, tile.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_row_values(ptr, rows, N, other):
    """Entries ``rows`` (any shape) of a row vector [N], ``other`` outside; None stays None."""
    if ptr is None:
        return None
    else:
        return tl.load(ptr + rows, mask=rows < N, other=other)


@triton.jit
def load_bias_tile(ptr, strides, rows, columns, N, M):
    """Entries of a bias matrix [N, M] at ``rows`` and ``columns``, float32, zeros outside."""
    offsets = rows.to(tl.int64) * strides[3] + columns.to(tl.int64) * strides[4]
    return tl.load(ptr + offsets, mask=(rows < N) & (columns < M), other=0.0).to(tl.float32)


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """a b + total, accumulated in float32; ``total`` may be None.

    float32 products without TF32 have no matrix instruction on NVIDIA GPUs, and their operands are whole rows in
    registers. A barrier keeps the compiler from holding an operand there until a later product that has it: without it
    the second-order kernels spill kilobytes.
    """
    if PRECISION == "ieee":
        tl.debug_barrier()
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def times_transposed(a, b, PRECISION: tl.constexpr):
    """a bᵀ, accumulated in float32."""
    return dot(a, tl.trans(b), None, PRECISION)


@triton.jit
def times_transposed_tangent(a, t_a, b, t_b, PRECISION: tl.constexpr):
    """The tangent of a bᵀ, a' bᵀ + a b'ᵀ; None where neither has a tangent. To be called after ``a bᵀ``.

    The first product has no barrier (see ``dot``): it shares b with a bᵀ, and the two are best interleaved.
    """
    product = None
    if t_a is not None:
        product = tl.dot(t_a, tl.trans(b), input_precision=PRECISION)
    if t_b is not None:
        product = dot(a, tl.trans(t_b), product, PRECISION)
    return product


@triton.jit
def scores(product, bias_ptr, bias_strides, rows, columns, N, M, scale, IS_CAUSAL: tl.constexpr):
    """log2(e)·S with S = s·QKᵀ + B, from ``product`` = QKᵀ; -inf at keys that are hidden or beyond the end.

    Rows beyond N need no mask: their lse is read as +inf, which makes their probabilities 0.
    """
    result = product * (scale * LOG2_E)
    if bias_ptr is not None:
        result += load_bias_tile(bias_ptr, bias_strides, rows, columns, N, M) * LOG2_E
    visible = columns < M
    if IS_CAUSAL:
        visible = visible & (columns <= rows)
    return tl.where(visible, result, -float("inf"))


@triton.jit
def scores_tangent(t_product, t_bias_ptr, t_bias_strides, rows, columns, N, M, scale):
    """S' = s·(QKᵀ)' + B' from ``t_product`` = (QKᵀ)'; None where neither is there."""
    if t_product is None:
        if t_bias_ptr is None:
            return None
        else:
            return load_bias_tile(t_bias_ptr, t_bias_strides, rows, columns, N, M)
    else:
        result = t_product * scale
        if t_bias_ptr is not None:
            result += load_bias_tile(t_bias_ptr, t_bias_strides, rows, columns, N, M)
        return result
