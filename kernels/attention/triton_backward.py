"""Triton kernels of the backward map: delta = rowsum(G∘O), then dQ in a sweep over keys and dK, dV in one over queries.

P and dS are recomputed in both sweeps, so that no kernel needs atomics: results do not depend on the order of programs.
"""

import triton
import triton.language as tl

from .triton_tiles import (
    LOG2_E,
    accumulate,
    keys_seen,
    load_matrix_tile,
    load_row_values,
    locate,
    matrix,
    queries_seeing,
    scores,
    store_matrix_tile,
    times_transposed,
)


@triton.jit
def attention_delta_kernel(
    out_ptr,  # [B, H, N, DV]
    grad_ptr,  # [B, H, N, DV]
    delta_ptr,  # [B, H, N] float32, contiguous
    out_strides,
    grad_strides,
    H,
    N,
    DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """delta = rowsum(G∘O) of BLOCK_M queries."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), 1, H, 1)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    out = load_matrix_tile(matrix(out_ptr, out_strides, t, b, h), out_strides, rows, N, DV, BLOCK_DV)
    grad = load_matrix_tile(matrix(grad_ptr, grad_strides, t, b, h), grad_strides, rows, N, DV, BLOCK_DV)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(delta_ptr + (b * H + h) * N + rows, delta, mask=rows < N)


@triton.jit
def attention_backward_query_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
    grad_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    delta_ptr,  # [B, H, N] float32, contiguous
    d_query_ptr,  # [B, H, N, D]
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    grad_strides,
    d_query_strides,
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
    """One tile of BLOCK_M queries: dQ = s·dS K with dS = P∘(GVᵀ - delta)."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), 1, H, 1)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = load_matrix_tile(query_ptr, query_strides, rows, N, D, BLOCK_D)
    grad = load_matrix_tile(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV)
    lse = load_row_values(lse_ptr + (b * H + h) * N, rows, N, float("inf")) * LOG2_E
    delta = load_row_values(delta_ptr + (b * H + h) * N, rows, N, 0.0)
    d_query = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    first, end = keys_seen(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        key = load_matrix_tile(key_ptr, key_strides, columns, M, D, BLOCK_D)
        value = load_matrix_tile(value_ptr, value_strides, columns, M, DV, BLOCK_DV)
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
        p = tl.exp2(s - lse[:, None])
        d_p = times_transposed(grad, value, PRECISION)
        d_s = p * (d_p - delta[:, None])
        d_query = accumulate(d_s, key, d_query, PRECISION)

    d_query_ptr = matrix(d_query_ptr, d_query_strides, t, b, h)
    store_matrix_tile(d_query_ptr, d_query_strides, d_query * scale, rows, N, D, BLOCK_D)


@triton.jit
def attention_backward_key_value_kernel(
    query_ptr,  # [B, H, N, D]
    key_ptr,  # [B, H, M, D]
    value_ptr,  # [B, H, M, DV]
    bias_ptr,  # [B, H, N, M] or None
    table_ptr,  # [B, H, 2h-1, 2w-1] or None
    grad_ptr,  # [B, H, N, DV]
    lse_ptr,  # [B, H, N] float32, contiguous
    delta_ptr,  # [B, H, N] float32, contiguous
    d_key_ptr,  # [B, H, M, D] or None
    d_value_ptr,  # [B, H, M, DV] or None
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    grad_strides,
    d_key_strides,
    d_value_strides,
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
    """One tile of BLOCK_N keys: dK = s·dSᵀQ and dV = PᵀG over tiles of BLOCK_M queries; score tiles are transposed."""
    tile, t, b, h = locate(tl.cdiv(M, BLOCK_N), 1, H, 1)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)
    lse_ptr += (b * H + h) * N
    delta_ptr += (b * H + h) * N

    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    key = load_matrix_tile(key_ptr, key_strides, columns, M, D, BLOCK_D)
    value = load_matrix_tile(value_ptr, value_strides, columns, M, DV, BLOCK_DV)
    d_key = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    d_value = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)

    first, end = queries_seeing(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        query = load_matrix_tile(query_ptr, query_strides, rows, N, D, BLOCK_D)
        grad = load_matrix_tile(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV)
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
        if d_value_ptr is not None:
            d_value = accumulate(p, grad, d_value, PRECISION)
        if d_key_ptr is not None:
            delta = load_row_values(delta_ptr, rows[None, :], N, 0.0)
            d_p = times_transposed(value, grad, PRECISION)
            d_s = p * (d_p - delta)
            d_key = accumulate(d_s, query, d_key, PRECISION)

    if d_value_ptr is not None:
        d_value_ptr = matrix(d_value_ptr, d_value_strides, t, b, h)
        store_matrix_tile(d_value_ptr, d_value_strides, d_value, columns, M, DV, BLOCK_DV)
    if d_key_ptr is not None:
        store_matrix_tile(
            matrix(d_key_ptr, d_key_strides, t, b, h), d_key_strides, d_key * scale, columns, M, D, BLOCK_D
        )
