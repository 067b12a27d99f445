"""Triton kernels of a table's gradient and of its tangent: dS and dS' summed over the pairs at each relative position.

The table is a *slot* [SLOT_B, SLOT_H, 2h-1, 2w-1], its first two axes whole or 1. A program owns one row of the table,
that is the keys a fixed number of rows below their queries, and a tile of pairs of columns. Over all such rows, heads
and batches it adds up the score tiles of one row of queries and one row of keys, always in the same order. What it
writes, row c of the tile c columns to the left, is such that the pairs at one relative position lie above one another:
the table's gradient is the sum over them, w (2h-1)(2w-1) numbers a slot. As for a bias the sum may be cut into SPLITS
parts.
"""

import triton
import triton.language as tl

from .triton_scores_grad import scores_grad_tangent_tile, scores_grad_tile


@triton.jit
def locate_offset(SPLITS, SLOT_B, SLOT_H, grid_size, tiles_m, tiles_n):
    """Tiles of key columns and of query columns, row of the table, head, batch, part and tangent of this program."""
    program = tl.program_id(0)
    tile_n = program % tiles_n
    program //= tiles_n
    tile_m = program % tiles_m
    program //= tiles_m
    offset = program % (2 * grid_size[0] - 1)
    program //= 2 * grid_size[0] - 1
    h = program % SLOT_H
    program //= SLOT_H
    b = program % SLOT_B
    program //= SLOT_B
    return tile_n, tile_m, offset, h, b, program % SPLITS, program // SPLITS


@triton.jit
def rows_with(down, grid_size, window):
    """How many rows of queries have a row of keys ``down`` rows below that they see."""
    count = grid_size[0] - tl.abs(down)
    if window is not None:
        count = tl.where((down >= -window[0]) & (down <= window[1]), count, 0)
    return count


@triton.jit
def store_offset_tile(ptr, tile, i, j, index, offset, grid_size):
    """Writes a tile of pairs of columns (i, j) to place [index, offset, i, j - i + w - 1] of [..., 2h-1, w, 2w-1]."""
    width = grid_size[1]
    place = ((index.to(tl.int64) * (2 * grid_size[0] - 1) + offset) * width + i[:, None]) * (2 * width - 1)
    inside = (i[:, None] < width) & (j[None, :] < width)
    tl.store(ptr + place + j[None, :] - i[:, None] + width - 1, tile, mask=inside)


@triton.jit
def attention_backward_table_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1]
    grad_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    delta_ptr,  # [B, H, N] float32, contiguous
    d_table_ptr,  # [SPLITS, SLOT_B, SLOT_H, 2h-1, w, 2w-1], contiguous, zeros
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    grad_strides,
    B,
    H,
    N,
    M,
    SLOT_B,
    SLOT_H,
    SPLITS,
    scale,
    grid_size,  # (h, w)
    window,  # (up, down, left, right) or None
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of column pairs of one row offset, one part of the sum: Σ dS."""
    tiles_m = tl.cdiv(grid_size[1], BLOCK_M)
    tiles_n = tl.cdiv(grid_size[1], BLOCK_N)
    tile_n, tile_m, offset, slot_h, slot_b, part, _t = locate_offset(
        SPLITS, SLOT_B, SLOT_H, grid_size, tiles_m, tiles_n
    )
    down = offset - (grid_size[0] - 1)
    sum_h = H // SLOT_H
    sum_rows = rows_with(down, grid_size, window)
    items = B // SLOT_B * sum_h * sum_rows
    items_per_part = tl.cdiv(items, SPLITS)

    i = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    d_table = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for item in range(part * items_per_part, tl.minimum(items, (part + 1) * items_per_part)):
        row = tl.maximum(0, -down) + item % sum_rows
        h = (slot_h + item // sum_rows % sum_h).to(tl.int64)
        b = (slot_b + item // sum_rows // sum_h).to(tl.int64)
        rows = tl.where(i < grid_size[1], row * grid_size[1] + i, N)
        columns = tl.where(j < grid_size[1], (row + down) * grid_size[1] + j, M)
        d_table += scores_grad_tile(
            query_ptr, key_ptr, value_ptr, bias_ptr, table_ptr, grad_ptr, lse_ptr, delta_ptr,
            query_strides, key_strides, value_strides, bias_strides, table_strides, grad_strides,
            b, h, rows, columns, H, N, M, scale, grid_size, window, D, DV, BLOCK_D, BLOCK_DV, IS_CAUSAL, PRECISION,
        )  # fmt: skip

    index = part * SLOT_B + slot_b
    store_offset_tile(d_table_ptr, d_table, i, j, index * SLOT_H + slot_h, offset, grid_size)


@triton.jit
def attention_backward_tangent_table_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1]
    grad_ptr,  # [B, H, N, DV]
    t_query_ptr,  # [T, B, H, N, D] or None
    t_key_ptr,  # [T, B, H, M, D] or None
    t_value_ptr,  # [T, B, H, M, DV] or None
    t_bias_ptr,  # [T, B, H, N, M] or None
    t_table_ptr,  # [T, B, H, 2h-1, 2w-1] or None
    t_grad_ptr,  # [T, B, H, N, DV] or None
    lse_ptr,  # [B, H, N] float32, contiguous
    delta_ptr,  # [B, H, N] float32, contiguous
    t_lse_ptr,  # [T, B, H, N] float32, contiguous, or None
    t_delta_ptr,  # [T, B, H, N] float32, contiguous
    t_d_table_ptr,  # [T, SPLITS, SLOT_B, SLOT_H, 2h-1, w, 2w-1], contiguous, zeros
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    grad_strides,
    t_query_strides,
    t_key_strides,
    t_value_strides,
    t_bias_strides,
    t_table_strides,
    t_grad_strides,
    T,  # a multiple of TANGENTS
    B,
    H,
    N,
    M,
    SLOT_B,
    SLOT_H,
    SPLITS,
    scale,
    grid_size,  # (h, w)
    window,  # (up, down, left, right) or None
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    TANGENTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One tile of column pairs of one row offset, one part of the sum: Σ dS'; the tangents share P and dS."""
    tiles_m = tl.cdiv(grid_size[1], BLOCK_M)
    tiles_n = tl.cdiv(grid_size[1], BLOCK_N)
    tile_n, tile_m, offset, slot_h, slot_b, part, slot_t = locate_offset(
        SPLITS, SLOT_B, SLOT_H, grid_size, tiles_m, tiles_n
    )
    t = slot_t.to(tl.int64) * TANGENTS
    down = offset - (grid_size[0] - 1)
    sum_h = H // SLOT_H
    sum_rows = rows_with(down, grid_size, window)
    items = B // SLOT_B * sum_h * sum_rows
    items_per_part = tl.cdiv(items, SPLITS)

    i = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    t_d_table = ()
    for _ in tl.static_range(TANGENTS):
        t_d_table = t_d_table + (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for item in range(part * items_per_part, tl.minimum(items, (part + 1) * items_per_part)):
        row = tl.maximum(0, -down) + item % sum_rows
        h = (slot_h + item // sum_rows % sum_h).to(tl.int64)
        b = (slot_b + item // sum_rows // sum_h).to(tl.int64)
        rows = tl.where(i < grid_size[1], row * grid_size[1] + i, N)
        columns = tl.where(j < grid_size[1], (row + down) * grid_size[1] + j, M)
        tiles = scores_grad_tangent_tile(
            query_ptr, key_ptr, value_ptr, bias_ptr, table_ptr, grad_ptr,
            t_query_ptr, t_key_ptr, t_value_ptr, t_bias_ptr, t_table_ptr, t_grad_ptr,
            lse_ptr, delta_ptr, t_lse_ptr, t_delta_ptr,
            query_strides, key_strides, value_strides, bias_strides, table_strides, grad_strides,
            t_query_strides, t_key_strides, t_value_strides, t_bias_strides, t_table_strides, t_grad_strides,
            t, b, h, rows, columns, B, H, N, M, scale, grid_size, window,
            D, DV, BLOCK_D, BLOCK_DV, IS_CAUSAL, PRECISION, TANGENTS, CHUNK,
        )  # fmt: skip
        sums = ()
        for k in tl.static_range(TANGENTS):
            sums = sums + (t_d_table[k] + tiles[k],)
        t_d_table = sums

    for k in tl.static_range(TANGENTS):
        index = ((t + k) * SPLITS + part) * SLOT_B + slot_b
        store_offset_tile(t_d_table_ptr, t_d_table[k], i, j, index * SLOT_H + slot_h, offset, grid_size)
