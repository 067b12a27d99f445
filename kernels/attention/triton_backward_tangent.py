"""Triton kernels of the backward map's tangent: delta', then dQ' in a sweep over keys and dK', dV' in one over queries.

With R = S' - lse': P' = P∘R, dP' = G'Vᵀ + GV'ᵀ, dS = P∘(dP - delta) and dS' = P∘(R∘(dP - delta) + dP' - delta').
"""

import triton
import triton.language as tl

from .triton_operands import accumulate_rows, operand, operands, rows_product, rows_product_tangent
from .triton_tiles import (
    LOG2_E,
    keys_seen,
    load_matrix_tile,
    load_row_values,
    locate,
    matrices,
    matrix,
    queries_seeing,
    scores,
    scores_tangent,
    store_matrix_tile,
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
    """delta' = rowsum(G'∘O + G∘O') of BLOCK_M queries, one tangent after the other."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), 1, H, 1)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    out = load_matrix_tile(matrix(out_ptr, out_strides, t, b, h), out_strides, rows, N, DV, BLOCK_DV)
    grad = load_matrix_tile(matrix(grad_ptr, grad_strides, t, b, h), grad_strides, rows, N, DV, BLOCK_DV)
    for _ in range(T):
        t_delta = tl.zeros([BLOCK_M], tl.float32)
        if t_grad_ptr is not None:
            t_grad_matrix = matrix(t_grad_ptr, t_grad_strides, t, b, h)
            t_grad = load_matrix_tile(t_grad_matrix, t_grad_strides, rows, N, DV, BLOCK_DV)
            t_delta += tl.sum(t_grad.to(tl.float32) * out.to(tl.float32), 1)
        if t_out_ptr is not None:
            t_out_matrix = matrix(t_out_ptr, t_out_strides, t, b, h)
            t_out = load_matrix_tile(t_out_matrix, t_out_strides, rows, N, DV, BLOCK_DV)
            t_delta += tl.sum(grad.to(tl.float32) * t_out.to(tl.float32), 1)
        tl.store(t_delta_ptr + ((t * B + b) * H + h) * N + rows, t_delta, mask=rows < N)
        t += 1


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
def add_value_tangent(p, r, grad, t_grad, total, PRECISION: tl.constexpr):
    """P'ᵀG + PᵀG' + total with P' = P∘R of transposed tiles; r = S' - lse' and t_grad may be None (zero)."""
    if r is not None:
        total = accumulate_rows(p * r, grad, total, PRECISION)
    if t_grad is not None:
        total = accumulate_rows(p, t_grad, total, PRECISION)
    return total


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
    """One tile of BLOCK_M queries: dQ' = s·(dS' K + dS K'); the tangents share P and dS."""
    tile, t, b, h = locate(tl.cdiv(N, BLOCK_M), T, H, TANGENTS)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)
    t_query_ptrs = matrices(t_query_ptr, t_query_strides, t, b, h, TANGENTS)
    t_key_ptrs = matrices(t_key_ptr, t_key_strides, t, b, h, TANGENTS)
    t_value_ptrs = matrices(t_value_ptr, t_value_strides, t, b, h, TANGENTS)
    t_bias_ptrs = matrices(t_bias_ptr, t_bias_strides, t, b, h, TANGENTS)
    t_table_ptrs = matrices(t_table_ptr, t_table_strides, t, b, h, TANGENTS)
    t_grad_ptrs = matrices(t_grad_ptr, t_grad_strides, t, b, h, TANGENTS)
    t_d_query_ptrs = matrices(t_d_query_ptr, t_d_query_strides, t, b, h, TANGENTS)

    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    query = operand(query_ptr, query_strides, rows, N, D, BLOCK_D, CHUNK)
    grad = operand(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
    lse = load_row_values(lse_ptr + (b * H + h) * N, rows[:, None], N, float("inf")) * LOG2_E
    delta = load_row_values(delta_ptr + (b * H + h) * N, rows[:, None], N, 0.0)
    t_query = operands(t_query_ptrs, t_query_strides, rows, N, D, BLOCK_D, CHUNK)
    t_grad = operands(t_grad_ptrs, t_grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
    t_delta, t_d_query = (), ()
    for k in tl.static_range(TANGENTS):
        t_delta = t_delta + (load_row_values(t_delta_ptr + (((t + k) * B + b) * H + h) * N, rows[:, None], N, 0.0),)
        t_d_query = t_d_query + (tl.zeros([BLOCK_M, BLOCK_D], tl.float32),)

    first, end = keys_seen(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        key = operand(key_ptr, key_strides, columns, M, D, BLOCK_D, CHUNK)
        value = operand(value_ptr, value_strides, columns, M, DV, BLOCK_DV, CHUNK)
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
        p = tl.exp2(s - lse)
        if TANGENTS > 1:
            d_p = rows_product(grad, value, PRECISION)

        next_query = ()
        for k in tl.static_range(TANGENTS):
            t_key = operand(t_key_ptrs[k], t_key_strides, columns, M, D, BLOCK_D, CHUNK)
            r = scores_tangent(
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
            if r is not None:
                r -= load_row_values(t_lse_ptr + (((t + k) * B + b) * H + h) * N, rows[:, None], N, 0.0)
            if TANGENTS == 1:  # as late as it can be: one tile less in registers till then
                d_p = rows_product(grad, value, PRECISION)
            t_value = operand(t_value_ptrs[k], t_value_strides, columns, M, DV, BLOCK_DV, CHUNK)
            t_d_p = rows_product_tangent(grad, t_grad[k], value, t_value, PRECISION)
            t_d_s = scores_grad_tangent(p, r, d_p, t_d_p, delta, t_delta[k])
            query_k = accumulate_rows(t_d_s, key, t_d_query[k], PRECISION)
            if t_key is not None:
                query_k = accumulate_rows(p * (d_p - delta), t_key, query_k, PRECISION)
            next_query = next_query + (query_k,)
        t_d_query = next_query

    for k in tl.static_range(TANGENTS):
        store_matrix_tile(t_d_query_ptrs[k], t_d_query_strides, t_d_query[k] * scale, rows, N, D, BLOCK_D)


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
    """One tile of BLOCK_N keys, score tiles transposed: dK' = s·(dS'ᵀQ + dSᵀQ'), dV' = P'ᵀG + PᵀG'.

    The tangents share P and dS.
    """
    tile, t, b, h = locate(tl.cdiv(M, BLOCK_N), T, H, TANGENTS)
    query_ptr = matrix(query_ptr, query_strides, t, b, h)
    key_ptr = matrix(key_ptr, key_strides, t, b, h)
    value_ptr = matrix(value_ptr, value_strides, t, b, h)
    bias_ptr = matrix(bias_ptr, bias_strides, t, b, h)
    table_ptr = matrix(table_ptr, table_strides, t, b, h)
    grad_ptr = matrix(grad_ptr, grad_strides, t, b, h)
    t_query_ptrs = matrices(t_query_ptr, t_query_strides, t, b, h, TANGENTS)
    t_key_ptrs = matrices(t_key_ptr, t_key_strides, t, b, h, TANGENTS)
    t_value_ptrs = matrices(t_value_ptr, t_value_strides, t, b, h, TANGENTS)
    t_bias_ptrs = matrices(t_bias_ptr, t_bias_strides, t, b, h, TANGENTS)
    t_table_ptrs = matrices(t_table_ptr, t_table_strides, t, b, h, TANGENTS)
    t_grad_ptrs = matrices(t_grad_ptr, t_grad_strides, t, b, h, TANGENTS)
    lse_ptr += (b * H + h) * N
    delta_ptr += (b * H + h) * N

    columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    key = operand(key_ptr, key_strides, columns, M, D, BLOCK_D, CHUNK)
    value = operand(value_ptr, value_strides, columns, M, DV, BLOCK_DV, CHUNK)
    t_key = operands(t_key_ptrs, t_key_strides, columns, M, D, BLOCK_D, CHUNK)
    t_value = operands(t_value_ptrs, t_value_strides, columns, M, DV, BLOCK_DV, CHUNK)
    t_d_key, t_d_value = (), ()
    for _ in tl.static_range(TANGENTS):
        t_d_key = t_d_key + (tl.zeros([BLOCK_N, BLOCK_D], tl.float32),)
        t_d_value = t_d_value + (tl.zeros([BLOCK_N, BLOCK_DV], tl.float32),)

    first, end = queries_seeing(tile, N, M, grid_size, window, BLOCK_M, BLOCK_N, IS_CAUSAL)
    for start in range(first, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        query = operand(query_ptr, query_strides, rows, N, D, BLOCK_D, CHUNK)
        grad = operand(grad_ptr, grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
        lse = load_row_values(lse_ptr, rows[None, :], N, float("inf")) * LOG2_E
        product = rows_product(key, query, PRECISION)
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
        delta = load_row_values(delta_ptr, rows[None, :], N, 0.0)
        if TANGENTS > 1:
            d_p = rows_product(value, grad, PRECISION)

        next_key, next_value = (), ()
        for k in tl.static_range(TANGENTS):
            key_k, value_k = t_d_key[k], t_d_value[k]
            t_query = operand(t_query_ptrs[k], t_query_strides, rows, N, D, BLOCK_D, CHUNK)
            t_grad = operand(t_grad_ptrs[k], t_grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
            r = scores_tangent(
                rows_product_tangent(key, t_key[k], query, t_query, PRECISION),
                t_bias_ptrs[k],
                t_bias_strides,
                t_table_ptrs[k],
                t_table_strides,
                grid_size,
                rows[None, :],
                columns[:, None],
                N,
                M,
                scale,
            )
            t_head = (((t + k) * B + b) * H + h) * N
            if r is not None:
                r -= load_row_values(t_lse_ptr + t_head, rows[None, :], N, 0.0)

            if t_d_value_ptr is not None and CHUNK is None:
                value_k = add_value_tangent(p, r, grad, t_grad, value_k, PRECISION)
            if t_d_key_ptr is not None:
                if TANGENTS == 1:
                    d_p = rows_product(value, grad, PRECISION)
                t_delta = load_row_values(t_delta_ptr + t_head, rows[None, :], N, 0.0)
                t_d_p = rows_product_tangent(value, t_value[k], grad, t_grad, PRECISION)
            if t_d_value_ptr is not None and CHUNK is not None:
                # behind the last loop over chunks: the compiler moves it there, and holds what it multiplies till then
                value_k = add_value_tangent(p, r, grad, t_grad, value_k, PRECISION)
            if t_d_key_ptr is not None:
                t_d_s = scores_grad_tangent(p, r, d_p, t_d_p, delta, t_delta)
                key_k = accumulate_rows(t_d_s, query, key_k, PRECISION)
                if t_query is not None:
                    key_k = accumulate_rows(p * (d_p - delta), t_query, key_k, PRECISION)
            next_key, next_value = next_key + (key_k,), next_value + (value_k,)
        t_d_key, t_d_value = next_key, next_value

    t_d_key_ptrs = matrices(t_d_key_ptr, t_d_key_strides, t, b, h, TANGENTS)
    t_d_value_ptrs = matrices(t_d_value_ptr, t_d_value_strides, t, b, h, TANGENTS)
    for k in tl.static_range(TANGENTS):
        if t_d_value_ptr is not None:
            store_matrix_tile(t_d_value_ptrs[k], t_d_value_strides, t_d_value[k], columns, M, DV, BLOCK_DV)
        if t_d_key_ptr is not None:
            store_matrix_tile(t_d_key_ptrs[k], t_d_key_strides, t_d_key[k] * scale, columns, M, D, BLOCK_D)
