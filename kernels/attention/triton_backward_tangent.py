"""Triton kernels of the backward map's tangent: delta', then dQ' in a sweep over keys and dK', dV' in one over queries.

With R = S' - lse': P' = P∘R, dP' = G'Vᵀ + GV'ᵀ, dS = P∘(dP - delta) and dS' = P∘(R∘(dP - delta) + dP' - delta').
"""

import triton
import triton.language as tl

from .triton_tiles import (
    LOG2_E,
    dot,
    keys_seen,
    load_matrix_tile,
    load_row_values,
    locate,
    matrix,
    queries_seeing,
    scores,
    scores_tangent,
    store_matrix_tile,
    times_transposed,
    times_transposed_tangent,
)


@triton.jit
def attention_delta_tangent_kernel(
    out_ptr,  # [B, H, N, DV]
    grad_ptr,  # [B, H, N, DV]
    t_out_ptr,  # [T, B, H, N, DV] or None
    t_grad_ptr,  # [T, B, H, N, DV] or None
    t_delta_ptr,  # [T, B, H, N] float32, contiguous
    out_strides,
    grad_strides,
    t_out_strides,
    t_grad_strides,
    T,
    B,
    H,
    N,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """delta' = rowsum(G'∘O + G∘O') of BLOCK_M queries of one tangent."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), T, H)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    t_delta = tl.zeros([BLOCK_M], tl.float32)
    if t_grad_ptr is not None:
        out = load_matrix_tile(matrix(out_ptr, out_strides, t, b, h), out_strides, rows, N, DV, BLOCK_DV)
        t_grad_ptr = matrix(t_grad_ptr, t_grad_strides, t, b, h)
        t_grad = load_matrix_tile(t_grad_ptr, t_grad_strides, rows, N, DV, BLOCK_DV)
        t_delta += tl.sum(t_grad.to(tl.float32) * out.to(tl.float32), 1)
    if t_out_ptr is not None:
        grad = load_matrix_tile(matrix(grad_ptr, grad_strides, t, b, h), grad_strides, rows, N, DV, BLOCK_DV)
        t_out_ptr = matrix(t_out_ptr, t_out_strides, t, b, h)
        t_out = load_matrix_tile(t_out_ptr, t_out_strides, rows, N, DV, BLOCK_DV)
        t_delta += tl.sum(grad.to(tl.float32) * t_out.to(tl.float32), 1)
    tl.store(t_delta_ptr + ((t * B + b) * H + h) * N + rows, t_delta, mask=rows < N)


@triton.jit
def scores_grad_tangent(p, r, d_p, t_d_p, delta, t_delta):
    """dS' = P∘(R∘(dP - delta) + dP' - delta'); r = S' - lse' and t_d_p = dP' may be None (zero)."""
    result = -t_delta
    if t_d_p is not None:
        result += t_d_p
    if r is not None:
        result += r * (d_p - delta)
    return p * result


@triton.jit
def attention_backward_tangent_query_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
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
    t_d_query_ptr,  # [T, B, H, N, D]
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
    t_d_query_strides,
    T,
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
):
    """One tile of BLOCK_M queries of one tangent: dQ' = s·(dS' K + dS K')."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), T, H)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)
    t_query_ptr = matrix(t_query_ptr, t_query_strides, t, b, h)
    t_key_ptr = matrix(t_key_ptr, t_key_strides, t, b, h)
    t_value_ptr = matrix(t_value_ptr, t_value_strides, t, b, h)
    t_bias_ptr = matrix(t_bias_ptr, t_bias_strides, t, b, h)
    t_table_ptr = matrix(t_table_ptr, t_table_strides, t, b, h)
    t_grad_ptr = matrix(t_grad_ptr, t_grad_strides, t, b, h)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = load_matrix_tile(query_ptr, query_strides, rows, N, D, BLOCK_D)
    grad = load_matrix_tile(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV)
    t_query = load_matrix_tile(t_query_ptr, t_query_strides, rows, N, D, BLOCK_D)
    t_grad = load_matrix_tile(t_grad_ptr, t_grad_strides, rows, N, DV, BLOCK_DV)
    lse = load_row_values(lse_ptr + (b * H + h) * N, rows[:, None], N, float("inf")) * LOG2_E
    delta = load_row_values(delta_ptr + (b * H + h) * N, rows[:, None], N, 0.0)
    t_delta = load_row_values(t_delta_ptr + ((t * B + b) * H + h) * N, rows[:, None], N, 0.0)
    t_d_query = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    first, end = keys_seen(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        key = load_matrix_tile(key_ptr, key_strides, columns, M, D, BLOCK_D)
        t_key = load_matrix_tile(t_key_ptr, t_key_strides, columns, M, D, BLOCK_D)
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
        p = tl.exp2(s - lse)
        t_product = times_transposed_tangent(query, t_query, key, t_key, PRECISION)
        r = scores_tangent(
            t_product,
            t_bias_ptr,
            t_bias_strides,
            t_table_ptr,
            t_table_strides,
            grid_size,
            rows[:, None],
            columns[None, :],
            N,
            M,
            scale,
        )
        if r is not None:
            r -= load_row_values(t_lse_ptr + ((t * B + b) * H + h) * N, rows[:, None], N, 0.0)

        value = load_matrix_tile(value_ptr, value_strides, columns, M, DV, BLOCK_DV)
        t_value = load_matrix_tile(t_value_ptr, t_value_strides, columns, M, DV, BLOCK_DV)
        d_p = times_transposed(grad, value, PRECISION)
        t_d_p = times_transposed_tangent(grad, t_grad, value, t_value, PRECISION)
        t_d_s = scores_grad_tangent(p, r, d_p, t_d_p, delta, t_delta)
        t_d_query = dot(t_d_s.to(key.dtype), key, t_d_query, PRECISION)
        if t_key is not None:
            d_s = p * (d_p - delta)
            t_d_query = dot(d_s.to(t_key.dtype), t_key, t_d_query, PRECISION)

    t_d_query *= scale
    t_d_query_ptr = matrix(t_d_query_ptr, t_d_query_strides, t, b, h)
    store_matrix_tile(t_d_query_ptr, t_d_query_strides, t_d_query, rows, N, D, BLOCK_D)


@triton.jit
def attention_backward_tangent_key_value_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
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
    t_d_key_ptr,  # [T, B, H, M, D] or None
    t_d_value_ptr,  # [T, B, H, M, DV] or None
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
    t_d_key_strides,
    t_d_value_strides,
    T,
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
):
    """One tile of BLOCK_N keys of one tangent, score tiles transposed: dK' = s·(dS'ᵀQ + dSᵀQ'), dV' = P'ᵀG + PᵀG'."""
    tile, t, b, h = locate(tl.cdiv(M, BLOCK_N), T, H)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)
    t_query_ptr = matrix(t_query_ptr, t_query_strides, t, b, h)
    t_key_ptr = matrix(t_key_ptr, t_key_strides, t, b, h)
    t_value_ptr = matrix(t_value_ptr, t_value_strides, t, b, h)
    t_bias_ptr = matrix(t_bias_ptr, t_bias_strides, t, b, h)
    t_table_ptr = matrix(t_table_ptr, t_table_strides, t, b, h)
    t_grad_ptr = matrix(t_grad_ptr, t_grad_strides, t, b, h)
    lse_ptr += (b * H + h) * N
    delta_ptr += (b * H + h) * N
    t_delta_ptr += ((t * B + b) * H + h) * N

    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    key = load_matrix_tile(key_ptr, key_strides, columns, M, D, BLOCK_D)
    value = load_matrix_tile(value_ptr, value_strides, columns, M, DV, BLOCK_DV)
    t_key = load_matrix_tile(t_key_ptr, t_key_strides, columns, M, D, BLOCK_D)
    t_value = load_matrix_tile(t_value_ptr, t_value_strides, columns, M, DV, BLOCK_DV)
    t_d_key = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    t_d_value = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)

    first, end = queries_seeing(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        query = load_matrix_tile(query_ptr, query_strides, rows, N, D, BLOCK_D)
        grad = load_matrix_tile(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV)
        t_query = load_matrix_tile(t_query_ptr, t_query_strides, rows, N, D, BLOCK_D)
        t_grad = load_matrix_tile(t_grad_ptr, t_grad_strides, rows, N, DV, BLOCK_DV)

        lse = load_row_values(lse_ptr, rows[None, :], N, float("inf")) * LOG2_E
        product = times_transposed(key, query, PRECISION)
        s = scores(
            product,
            bias_ptr,
            bias_strides,
            table_ptr,
            table_strides,
            grid_size,
            window,
            rows[None, :],
            columns[:, None],
            N,
            M,
            scale,
            IS_CAUSAL,
        )
        p = tl.exp2(s - lse)
        t_product = times_transposed_tangent(key, t_key, query, t_query, PRECISION)
        r = scores_tangent(
            t_product,
            t_bias_ptr,
            t_bias_strides,
            t_table_ptr,
            t_table_strides,
            grid_size,
            rows[None, :],
            columns[:, None],
            N,
            M,
            scale,
        )
        if r is not None:
            r -= load_row_values(t_lse_ptr + ((t * B + b) * H + h) * N, rows[None, :], N, 0.0)

        if t_d_value_ptr is not None:
            if r is not None:
                t_p = p * r
                t_d_value = dot(t_p.to(grad.dtype), grad, t_d_value, PRECISION)
            if t_grad is not None:
                t_d_value = dot(p.to(t_grad.dtype), t_grad, t_d_value, PRECISION)

        if t_d_key_ptr is not None:
            delta = load_row_values(delta_ptr, rows[None, :], N, 0.0)
            t_delta = load_row_values(t_delta_ptr, rows[None, :], N, 0.0)
            d_p = times_transposed(value, grad, PRECISION)
            t_d_p = times_transposed_tangent(value, t_value, grad, t_grad, PRECISION)
            t_d_s = scores_grad_tangent(p, r, d_p, t_d_p, delta, t_delta)
            t_d_key = dot(t_d_s.to(query.dtype), query, t_d_key, PRECISION)
            if t_query is not None:
                d_s = p * (d_p - delta)
                t_d_key = dot(d_s.to(t_query.dtype), t_query, t_d_key, PRECISION)

    if t_d_value_ptr is not None:
        t_d_value_ptr = matrix(t_d_value_ptr, t_d_value_strides, t, b, h)
        store_matrix_tile(t_d_value_ptr, t_d_value_strides, t_d_value, columns, M, DV, BLOCK_DV)
    if t_d_key_ptr is not None:
        t_d_key *= scale
        t_d_key_ptr = matrix(t_d_key_ptr, t_d_key_strides, t, b, h)
        store_matrix_tile(t_d_key_ptr, t_d_key_strides, t_d_key, columns, M, D, BLOCK_D)
