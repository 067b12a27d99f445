"""One tile of dS or dS' of one head, where the sweeps over keys and queries do not give it: for what biases share."""

import triton
import triton.language as tl

from .triton_backward_tangent import scores_grad_tangent
from .triton_operands import operand, operands, rows_product, rows_product_tangent
from .triton_tiles import (
    LOG2_E,
    load_matrix_tile,
    load_row_values,
    matrices,
    matrix,
    scores,
    scores_tangent,
    times_transposed,
)


@triton.jit
def scores_grad_tile(
    query_ptr,
    key_ptr,
    value_ptr,
    bias_ptr,
    table_ptr,
    grad_ptr,
    lse_ptr,
    delta_ptr,
    query_strides,
    key_strides,
    value_strides,
    bias_strides,
    table_strides,
    grad_strides,
    b,
    h,
    rows,
    columns,
    H,
    N,
    M,
    scale,
    grid_size,
    window,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dS = P∘(GVᵀ - delta) of one head at ``rows`` and ``columns``; 0 beyond the ends."""
    bias_ptr = matrix(bias_ptr, bias_strides, 0, b, h)
    table_ptr = matrix(table_ptr, table_strides, 0, b, h)
    query = load_matrix_tile(matrix(query_ptr, query_strides, 0, b, h), query_strides, rows, N, D, BLOCK_D)
    key = load_matrix_tile(matrix(key_ptr, key_strides, 0, b, h), key_strides, columns, M, D, BLOCK_D)
    product = times_transposed(query, key, PRECISION)
    i, j = rows[:, None], columns[None, :]
    s = scores(
        product, bias_ptr, bias_strides, table_ptr, table_strides, grid_size, window, i, j, N, M, scale, IS_CAUSAL
    )
    p = tl.exp2(s - load_row_values(lse_ptr + (b * H + h) * N, i, N, float("inf")) * LOG2_E)

    grad = load_matrix_tile(matrix(grad_ptr, grad_strides, 0, b, h), grad_strides, rows, N, DV, BLOCK_DV)
    value = load_matrix_tile(matrix(value_ptr, value_strides, 0, b, h), value_strides, columns, M, DV, BLOCK_DV)
    d_p = times_transposed(grad, value, PRECISION)
    return p * (d_p - load_row_values(delta_ptr + (b * H + h) * N, i, N, 0.0))


@triton.jit
def scores_grad_tangent_tile(
    query_ptr,
    key_ptr,
    value_ptr,
    bias_ptr,
    table_ptr,
    grad_ptr,
    t_query_ptr,
    t_key_ptr,
    t_value_ptr,
    t_bias_ptr,
    t_table_ptr,
    t_grad_ptr,
    lse_ptr,
    delta_ptr,
    t_lse_ptr,
    t_delta_ptr,
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
    t,
    b,
    h,
    rows,
    columns,
    B,
    H,
    N,
    M,
    scale,
    grid_size,
    window,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    TANGENTS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """dS' of one head at ``rows`` and ``columns``, a tuple over the tangents from t on; 0 beyond the ends."""
    head = (b * H + h) * N
    i, j = rows[:, None], columns[None, :]
    t_query_ptrs = matrices(t_query_ptr, t_query_strides, t, b, h, TANGENTS)
    t_key_ptrs = matrices(t_key_ptr, t_key_strides, t, b, h, TANGENTS)
    query = operand(matrix(query_ptr, query_strides, 0, b, h), query_strides, rows, N, D, BLOCK_D, CHUNK)
    t_query = operands(t_query_ptrs, t_query_strides, rows, N, D, BLOCK_D, CHUNK)
    key = operand(matrix(key_ptr, key_strides, 0, b, h), key_strides, columns, M, D, BLOCK_D, CHUNK)
    t_key = operands(t_key_ptrs, t_key_strides, columns, M, D, BLOCK_D, CHUNK)
    product = rows_product(query, key, PRECISION)
    bias_ptr = matrix(bias_ptr, bias_strides, 0, b, h)
    table_ptr = matrix(table_ptr, table_strides, 0, b, h)
    s = scores(
        product, bias_ptr, bias_strides, table_ptr, table_strides, grid_size, window, i, j, N, M, scale, IS_CAUSAL
    )
    p = tl.exp2(s - load_row_values(lse_ptr + head, i, N, float("inf")) * LOG2_E)
    t_bias_ptrs = matrices(t_bias_ptr, t_bias_strides, t, b, h, TANGENTS)
    t_table_ptrs = matrices(t_table_ptr, t_table_strides, t, b, h, TANGENTS)
    if t_query_ptr is None and t_key_ptr is None and t_bias_ptr is None and t_table_ptr is None:
        r = (None,) * TANGENTS
    else:
        r = ()
        for k in tl.static_range(TANGENTS):
            t_s = scores_tangent(
                rows_product_tangent(query, t_query[k], key, t_key[k], PRECISION),
                t_bias_ptrs[k], t_bias_strides, t_table_ptrs[k], t_table_strides, grid_size, i, j, N, M, scale,
            )  # fmt: skip
            r = r + (t_s - load_row_values(t_lse_ptr + (((t + k) * B + b) * H + h) * N, i, N, 0.0),)

    t_value_ptrs = matrices(t_value_ptr, t_value_strides, t, b, h, TANGENTS)
    t_grad_ptrs = matrices(t_grad_ptr, t_grad_strides, t, b, h, TANGENTS)
    grad = operand(matrix(grad_ptr, grad_strides, 0, b, h), grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
    t_grad = operands(t_grad_ptrs, t_grad_strides, rows, N, DV, BLOCK_DV, CHUNK)
    value = operand(matrix(value_ptr, value_strides, 0, b, h), value_strides, columns, M, DV, BLOCK_DV, CHUNK)
    t_value = operands(t_value_ptrs, t_value_strides, columns, M, DV, BLOCK_DV, CHUNK)
    d_p = rows_product(grad, value, PRECISION)
    delta = load_row_values(delta_ptr + head, i, N, 0.0)
    tiles = ()
    for k in tl.static_range(TANGENTS):
        t_d_p = rows_product_tangent(grad, t_grad[k], value, t_value[k], PRECISION)
        t_delta = load_row_values(t_delta_ptr + (((t + k) * B + b) * H + h) * N, i, N, 0.0)
        tiles = tiles + (scores_grad_tangent(p, r[k], d_p, t_d_p, delta, t_delta),)
    return tiles
