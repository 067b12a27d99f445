"""What the Triton kernels share: where a program works, how it reads a tile, what a score is.

Conventions of every kernel of this folder:

- One grid axis of programs (the other two stop at 65,535, and windows of images make more heads than that).
- Matrices come as a pointer and a tuple of five strides, in elements: tangent, batch, head, row, column; behind them
  how many heads share one. A primal has tangent stride 0, a broadcast axis stride 0. Offsets are 64-bit.
- What a program does for several tangents is a tuple too, of TANGENTS; they share what is computed of the primals.
- Row vectors (lse, delta and their tangents) are contiguous float32 [(T,) B, H, N].
- ``None`` in place of a pointer is a zero tangent (or an absent bias, or a result nobody needs). It is a compile-time
  constant, and so is every tile made from it: its products are not multiplied, they are not compiled.
- ``grid_size`` is the pair (h, w) of a map whose tokens are the queries and keys, ``window`` how far a query sees on
  it: rows up and down, columns left and right. ``None`` where there is neither a table nor a neighbourhood.
- ``rows`` are queries and ``columns`` are keys, shaped [BLOCK_M, 1] and [1, BLOCK_N], or, in the kernels that hold keys
  and sweep queries, [1, BLOCK_M] and [BLOCK_N, 1]: what is written with them holds for either orientation.
- Scores are kept in base 2 (multiplied by log2 e), since exp2 is the instruction that GPUs have.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def locate(tiles, T, H, TANGENTS: tl.constexpr):
    """Tile, first tangent, batch and head of this program; neighbours share a head: its matrices stay in cache."""
    program = tl.program_id(0)
    tile = program % tiles
    groups = T // TANGENTS
    t = (program // tiles) % groups * TANGENTS
    head = program // tiles // groups
    return tile, t.to(tl.int64), (head // H).to(tl.int64), (head % H).to(tl.int64)


@triton.jit
def matrix(ptr, strides, t, b, h):
    """Pointer to the first entry of the matrix of tangent t, batch b and head h; None stays None."""
    if ptr is None:
        return None
    else:
        return ptr + t * strides[0] + b * strides[1] + h // strides[5] * strides[2]


@triton.jit
def matrices(ptr, strides, t, b, h, TANGENTS: tl.constexpr):
    """``matrix`` of the tangents from t on, a tuple; of None where there are none."""
    if ptr is None:
        return (None,) * TANGENTS
    else:
        pointers = ()
        for k in tl.static_range(TANGENTS):
            pointers = pointers + (matrix(ptr, strides, t + k, b, h),)
        return pointers


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
def load_matrix_tiles(pointers, strides, rows, ROWS, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """``load_matrix_tile`` of several matrices, a tuple."""
    if pointers[0] is None:
        return pointers
    else:
        tiles = ()
        for k in tl.static_range(len(pointers)):
            tiles = tiles + (load_matrix_tile(pointers[k], strides, rows, ROWS, WIDTH, BLOCK_WIDTH),)
        return tiles


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
    second-order kernels spill hundreds of bytes to kilobytes.
    """
    if PRECISION == "ieee":
        tl.debug_barrier()
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def accumulate(a, b, total, PRECISION: tl.constexpr):
    """a b + total, a rounded to the dtype of b."""
    return dot(a.to(b.dtype), b, total, PRECISION)


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
def load_table_tile(ptr, strides, grid_size, rows, columns, N, M):
    """What a table [2h-1, 2w-1] adds at ``rows`` and ``columns``, float32, zeros outside.

    The place of an entry is a difference of two terms, one of the query and one of the key. A table is small: 32 bits.
    """
    height, width = grid_size[0], grid_size[1]
    origin = (height - 1) * strides[3] + (width - 1) * strides[4]
    of_row = rows // width * strides[3] + rows % width * strides[4]
    of_column = columns // width * strides[3] + columns % width * strides[4]
    offsets = (of_column + origin).to(tl.int32) - of_row.to(tl.int32)
    return tl.load(ptr + offsets, mask=(rows < N) & (columns < M), other=0.0).to(tl.float32)


@triton.jit
def load_added_tile(
    bias_ptr, bias_strides, table_ptr, table_strides, grid_size, rows, columns, N, M
):  # fmt: skip
    """Bias and table together; None where there is neither."""
    if bias_ptr is None:
        if table_ptr is None:
            return None
        else:
            return load_table_tile(table_ptr, table_strides, grid_size, rows, columns, N, M)
    else:
        added = load_bias_tile(bias_ptr, bias_strides, rows, columns, N, M)
        if table_ptr is not None:
            added += load_table_tile(table_ptr, table_strides, grid_size, rows, columns, N, M)
        return added


@triton.jit
def scores(
    product,
    bias_ptr,
    bias_strides,
    table_ptr,
    table_strides,
    grid_size,
    window,
    rows,
    columns,
    N,
    M,
    scale,
    IS_CAUSAL: tl.constexpr,
):
    """log2(e)·S with S = s·QKᵀ + B, from ``product`` = QKᵀ; -inf at keys that are hidden or beyond the end.

    Rows beyond N need no mask: their lse is read as +inf, which makes their probabilities 0.
    """
    result = product * (scale * LOG2_E)
    added = load_added_tile(bias_ptr, bias_strides, table_ptr, table_strides, grid_size, rows, columns, N, M)
    if added is not None:
        result += added * LOG2_E
    visible = columns < M
    if IS_CAUSAL:
        visible = visible & (columns <= rows)
    if window is not None:
        row, column = rows // grid_size[1], rows % grid_size[1]  # of the queries; both bounds are vectors, not tiles
        key_row, key_column = columns // grid_size[1], columns % grid_size[1]
        visible = visible & (key_row >= row - window[0]) & (key_row <= row + window[1])
        visible = visible & (key_column >= column - window[2]) & (key_column <= column + window[3])
    return tl.where(visible, result, -float("inf"))


@triton.jit
def scores_tangent(
    t_product, t_bias_ptr, t_bias_strides, t_table_ptr, t_table_strides, grid_size, rows, columns, N, M, scale
):  # fmt: skip
    """S' = s·(QKᵀ)' + B' from ``t_product`` = (QKᵀ)'; None where neither is there."""
    added = load_added_tile(t_bias_ptr, t_bias_strides, t_table_ptr, t_table_strides, grid_size, rows, columns, N, M)
    if t_product is None:
        return added
    else:
        result = t_product * scale
        if added is not None:
            result += added
        return result


@triton.jit
def keys_seen(tile, N, M, grid_size, window, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, IS_CAUSAL: tl.constexpr):
    """From which key, the first of a tile, to which key a sweep of this tile of queries goes."""
    first, end = 0, M
    if IS_CAUSAL:
        end = tl.minimum(M, (tile + 1) * BLOCK_M)
    if window is not None:
        top = tile * BLOCK_M // grid_size[1] - window[0]
        bottom = (tl.minimum(N, (tile + 1) * BLOCK_M) - 1) // grid_size[1] + window[1]
        first = tl.maximum(top, 0) * grid_size[1] // BLOCK_N * BLOCK_N
        end = tl.minimum(end, (bottom + 1) * grid_size[1])
    return first, end


@triton.jit
def queries_seeing(
    tile, N, M, grid_size, window, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, IS_CAUSAL: tl.constexpr
):
    """From which query, the first of a tile, to which query a sweep of this tile of keys goes."""
    first, end = 0, N
    if IS_CAUSAL:
        first = tile * BLOCK_N // BLOCK_M * BLOCK_M
    if window is not None:
        top = tile * BLOCK_N // grid_size[1] - window[1]
        bottom = (tl.minimum(M, (tile + 1) * BLOCK_N) - 1) // grid_size[1] + window[0]
        first = tl.maximum(first, tl.maximum(top, 0) * grid_size[1] // BLOCK_M * BLOCK_M)
        end = tl.minimum(end, (bottom + 1) * grid_size[1])
    return first, end
