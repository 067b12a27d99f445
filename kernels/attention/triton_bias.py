"""Triton kernels of the bias gradient and of its tangent: dS and dS' summed over what the bias broadcasts.

The bias is a *slot* [SLOT_B, SLOT_H, SLOT_N, SLOT_M], each axis whole or 1. A program owns one tile of the slot and
adds up, always in the same order, the score tiles that fall on it: over batch, over heads, and over the tiles of
queries or of keys where that axis of the slot is 1. A small slot under many heads (one 49 x 49 table for all windows)
would leave the GPU idle, so the sum is cut into SPLITS parts, each a slice of the output, added up afterwards.
"""

import triton
import triton.language as tl

from .triton_scores_grad import scores_grad_tangent_tile, scores_grad_tile


@triton.jit
def locate_slot(SPLITS, SLOT_B, SLOT_H, tiles_n, tiles_m):
    """Tile of keys, tile of queries, head, batch, part and tangent of this program's place in the output."""
    program = tl.program_id(0)
    tile_m = program % tiles_m
    program //= tiles_m
    tile_n = program % tiles_n
    program //= tiles_n
    h = program % SLOT_H
    program //= SLOT_H
    b = program % SLOT_B
    program //= SLOT_B
    return tile_m, tile_n, h, b, program % SPLITS, program // SPLITS


@triton.jit
def store_slot_tile(ptr, tile, rows, columns, index, SLOT_N, SLOT_M, REDUCE_N: tl.constexpr, REDUCE_M: tl.constexpr):
    """Writes a tile of matrix ``index`` of a contiguous [..., SLOT_N, SLOT_M], summed along the axes where it has 1."""
    if REDUCE_N:
        tile = tl.broadcast_to(tl.sum(tile, 0, keep_dims=True), tile.shape)
    if REDUCE_M:
        tile = tl.broadcast_to(tl.sum(tile, 1, keep_dims=True), tile.shape)
    offsets = (index.to(tl.int64) * SLOT_N + rows[:, None]) * SLOT_M + columns[None, :]
    inside = (rows[:, None] < SLOT_N) & (columns[None, :] < SLOT_M)
    tl.store(ptr + offsets, tile.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def attention_backward_bias_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M]
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
    grad_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    delta_ptr,  # [B, H, N] float32, contiguous
    d_bias_ptr,  # [SPLITS, SLOT_B, SLOT_H, SLOT_N, SLOT_M], contiguous
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
    SLOT_N,
    SLOT_M,
    SPLITS,
    scale,
    grid_size,  # (h, w) or None
    window,  # (up, down, left, right) or None
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    REDUCE_N: tl.constexpr,
    REDUCE_M: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the slot, one part of the sum: dB = Σ dS with dS = P∘(GVᵀ - delta)."""
    tiles_n = tl.cdiv(SLOT_N, BLOCK_M)
    tiles_m = tl.cdiv(SLOT_M, BLOCK_N)
    slot_tile_m, slot_tile_n, slot_h, slot_b, part, _t = locate_slot(SPLITS, SLOT_B, SLOT_H, tiles_n, tiles_m)
    sum_m = tl.cdiv(M, BLOCK_N) // tiles_m
    sum_n = tl.cdiv(N, BLOCK_M) // tiles_n
    sum_h = H // SLOT_H
    items = B // SLOT_B * sum_h * sum_n * sum_m
    items_per_part = tl.cdiv(items, SPLITS)

    d_bias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for item in range(part * items_per_part, tl.minimum(items, (part + 1) * items_per_part)):
        tile_m = slot_tile_m + item % sum_m
        tile_n = slot_tile_n + item // sum_m % sum_n
        h = (slot_h + item // (sum_m * sum_n) % sum_h).to(tl.int64)
        b = (slot_b + item // (sum_m * sum_n) // sum_h).to(tl.int64)
        rows = tile_n * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tile_m * BLOCK_N + tl.arange(0, BLOCK_N)
        d_bias += scores_grad_tile(
            query_ptr, key_ptr, value_ptr, bias_ptr, table_ptr, grad_ptr, lse_ptr, delta_ptr,
            query_strides, key_strides, value_strides, bias_strides, table_strides, grad_strides,
            b, h, rows, columns, H, N, M, scale, grid_size, window, D, DV, BLOCK_D, BLOCK_DV, IS_CAUSAL, PRECISION,
        )  # fmt: skip

    rows = slot_tile_n * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = slot_tile_m * BLOCK_N + tl.arange(0, BLOCK_N)
    index = (part * SLOT_B + slot_b) * SLOT_H + slot_h
    store_slot_tile(d_bias_ptr, d_bias, rows, columns, index, SLOT_N, SLOT_M, REDUCE_N, REDUCE_M)


@triton.jit
def attention_backward_tangent_bias_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M]
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
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
    t_d_bias_ptr,  # [T, SPLITS, SLOT_B, SLOT_H, SLOT_N, SLOT_M], contiguous
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
    SLOT_N,
    SLOT_M,
    SPLITS,
    scale,
    grid_size,  # (h, w) or None
    window,  # (up, down, left, right) or None
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    REDUCE_N: tl.constexpr,
    REDUCE_M: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    TANGENTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One tile of the slot, one part of the sum: dB' = Σ dS'; the tangents share P and dS."""
    tiles_n = tl.cdiv(SLOT_N, BLOCK_M)
    tiles_m = tl.cdiv(SLOT_M, BLOCK_N)
    slot_tile_m, slot_tile_n, slot_h, slot_b, part, slot_t = locate_slot(SPLITS, SLOT_B, SLOT_H, tiles_n, tiles_m)
    t = slot_t.to(tl.int64) * TANGENTS
    sum_m = tl.cdiv(M, BLOCK_N) // tiles_m
    sum_n = tl.cdiv(N, BLOCK_M) // tiles_n
    sum_h = H // SLOT_H
    items = B // SLOT_B * sum_h * sum_n * sum_m
    items_per_part = tl.cdiv(items, SPLITS)

    t_d_bias = ()
    for _ in tl.static_range(TANGENTS):
        t_d_bias = t_d_bias + (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    for item in range(part * items_per_part, tl.minimum(items, (part + 1) * items_per_part)):
        tile_m = slot_tile_m + item % sum_m
        tile_n = slot_tile_n + item // sum_m % sum_n
        h = (slot_h + item // (sum_m * sum_n) % sum_h).to(tl.int64)
        b = (slot_b + item // (sum_m * sum_n) // sum_h).to(tl.int64)
        rows = tile_n * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tile_m * BLOCK_N + tl.arange(0, BLOCK_N)
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
            sums = sums + (t_d_bias[k] + tiles[k],)
        t_d_bias = sums

    rows = slot_tile_n * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = slot_tile_m * BLOCK_N + tl.arange(0, BLOCK_N)
    for k in tl.static_range(TANGENTS):
        index = (((t + k) * SPLITS + part) * SLOT_B + slot_b) * SLOT_H + slot_h
        store_slot_tile(t_d_bias_ptr, t_d_bias[k], rows, columns, index, SLOT_N, SLOT_M, REDUCE_N, REDUCE_M)
