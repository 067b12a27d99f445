"""Triton kernels of the forward map and of its tangent: O, lse and O', lse' in one sweep over the keys each."""

import triton
import triton.language as tl

from .triton_operands import accumulate_rows, operand, operands, rows_product, rows_product_tangent
from .triton_tiles import (
    LN_2,
    LOG2_E,
    accumulate,
    keys_seen,
    load_matrix_tile,
    load_row_values,
    locate,
    matrices,
    matrix,
    scores,
    scores_tangent,
    store_matrix_tile,
    times_transposed,
)


@triton.jit
def attention_forward_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
    out_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    out_strides,
    H,
    N,
    M,
    scale,
    grid_size,  # (h, w) or None
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
    """One tile of BLOCK_M queries: softmax on line over tiles of BLOCK_N keys."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), 1, H, 1)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = load_matrix_tile(query_ptr, query_strides, rows, N, D, BLOCK_D)
    row_max = tl.full([BLOCK_M], -float("inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)

    first, end = keys_seen(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        key = load_matrix_tile(key_ptr, key_strides, columns, M, D, BLOCK_D)
        product = times_transposed(query, key, PRECISION)
        s = scores(
            product,
            bias_ptr,
            bias_strides,
            table_ptr,
            table_strides,
            grid_size,
            window,
            rows[:, None],
            columns[None, :],
            N,
            M,
            scale,
            IS_CAUSAL,
        )

        new_max = tl.maximum(row_max, tl.max(s, 1))
        shift = tl.where(new_max == -float("inf"), 0.0, new_max)  # rows with no visible key yet: -inf - -inf is NaN
        p = tl.exp2(s - shift[:, None])
        rescale = tl.exp2(row_max - shift)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        row_max = new_max

        value = load_matrix_tile(value_ptr, value_strides, columns, M, DV, BLOCK_DV)
        out = accumulate(p, value, out * rescale[:, None], PRECISION)

    dead = row_sum == 0.0  # no visible key: out is 0, and lse = +inf makes every later probability 0
    total = tl.where(dead, 1.0, row_sum)
    lse = tl.where(dead, float("inf"), (row_max + tl.log2(total)) * LN_2)
    store_matrix_tile(matrix(out_ptr, out_strides, t, b, h), out_strides, out / total[:, None], rows, N, DV, BLOCK_DV)
    tl.store(lse_ptr + (b * H + h) * N + rows, lse, mask=rows < N)


@triton.jit
def attention_tangent_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
    t_query_ptr,  # [T, B, H, N, D] or None
    t_key_ptr,  # [T, B, H, M, D] or None
    t_value_ptr,  # [T, B, H, M, DV] or None
    t_bias_ptr,  # [T, B, H, N, M] or None
    t_table_ptr,  # [T, B, H, 2h-1, 2w-1] or None
    out_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    t_out_ptr,  # [T, B, H, N, DV]
    t_lse_ptr,  # [T, B, H, N] float32, contiguous
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    t_query_strides,
    t_key_strides,
    t_value_strides,
    t_bias_strides,
    t_table_strides,
    out_strides,
    t_out_strides,
    T,  # a multiple of TANGENTS
    B,
    H,
    N,
    M,
    scale,
    grid_size,  # (h, w) or None
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
    """One tile of BLOCK_M queries: O' = (P∘S')V + PV' - lse'∘O with lse' = rowsum(P∘S'); the tangents share P."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), T, H, TANGENTS)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    t_query_ptrs = matrices(t_query_ptr, t_query_strides, t, b, h, TANGENTS)
    t_key_ptrs = matrices(t_key_ptr, t_key_strides, t, b, h, TANGENTS)
    t_value_ptrs = matrices(t_value_ptr, t_value_strides, t, b, h, TANGENTS)
    t_bias_ptrs = matrices(t_bias_ptr, t_bias_strides, t, b, h, TANGENTS)
    t_table_ptrs = matrices(t_table_ptr, t_table_strides, t, b, h, TANGENTS)
    t_out_ptrs = matrices(t_out_ptr, t_out_strides, t, b, h, TANGENTS)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = operand(query_ptr, query_strides, rows, N, D, BLOCK_D, CHUNK)
    lse = load_row_values(lse_ptr + (b * H + h) * N, rows, N, float("inf")) * LOG2_E
    t_query = operands(t_query_ptrs, t_query_strides, rows, N, D, BLOCK_D, CHUNK)
    t_lse, t_out = (), ()
    for _ in tl.static_range(TANGENTS):
        t_lse = t_lse + (tl.zeros([BLOCK_M], tl.float32),)
        t_out = t_out + (tl.zeros([BLOCK_M, BLOCK_DV], tl.float32),)

    first, end = keys_seen(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        key = operand(key_ptr, key_strides, columns, M, D, BLOCK_D, CHUNK)
        product = rows_product(query, key, PRECISION)
        s = scores(
            product,
            bias_ptr,
            bias_strides,
            table_ptr,
            table_strides,
            grid_size,
            window,
            rows[:, None],
            columns[None, :],
            N,
            M,
            scale,
            IS_CAUSAL,
        )
        p = tl.exp2(s - lse[:, None])

        next_lse, next_out = (), ()
        for k in tl.static_range(TANGENTS):
            sum_k, out_k = t_lse[k], t_out[k]
            t_key = operand(t_key_ptrs[k], t_key_strides, columns, M, D, BLOCK_D, CHUNK)
            t_s = scores_tangent(
                rows_product_tangent(query, t_query[k], key, t_key, PRECISION),
                t_bias_ptrs[k],
                t_bias_strides,
                t_table_ptrs[k],
                t_table_strides,
                grid_size,
                rows[:, None],
                columns[None, :],
                N,
                M,
                scale,
            )
            if t_s is not None:
                weighted = p * t_s
                sum_k += tl.sum(weighted, 1)
                value = operand(value_ptr, value_strides, columns, M, DV, BLOCK_DV, CHUNK)
                out_k = accumulate_rows(weighted, value, out_k, PRECISION)
            t_value = operand(t_value_ptrs[k], t_value_strides, columns, M, DV, BLOCK_DV, CHUNK)
            if t_value is not None:
                out_k = accumulate_rows(p, t_value, out_k, PRECISION)
            next_lse, next_out = next_lse + (sum_k,), next_out + (out_k,)
        t_lse, t_out = next_lse, next_out

    out = load_matrix_tile(matrix(out_ptr, out_strides, t, b, h), out_strides, rows, N, DV, BLOCK_DV)
    for k in tl.static_range(TANGENTS):
        result = t_out[k] - t_lse[k][:, None] * out
        store_matrix_tile(t_out_ptrs[k], t_out_strides, result, rows, N, DV, BLOCK_DV)
        tl.store(t_lse_ptr + (((t + k) * B + b) * H + h) * N + rows, t_lse[k], mask=rows < N)
