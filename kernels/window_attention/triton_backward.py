"""Triton kernels of the backward map and of its tangent: one program for the windows of a tile and a head.

Every token is in one window, so that gradients of maps are written once, without sums over programs. A table is shared
by all windows: each program writes its dS, which ``triton_problem`` adds up. No atomics: results do not depend on the
order of programs. And no loops, over windows to add up dS in the program or over tangents to share P: what the compiler
moves out of a loop (addresses above all) takes more registers than there are.
"""

import triton
import triton.language as tl

from ..attention.triton_tiles import dot, times_transposed, times_transposed_tangent
from .triton_tiles import (
    centred,
    load_table,
    load_tokens,
    locate,
    scores_tangent,
    softmax,
    store_scores,
    store_tokens,
)


@triton.jit
def window_attention_backward_kernel(
    query_ptr,  # [B, heads, D, H, W]
    key_ptr,  # [B, heads, D, H, W]
    value_ptr,  # [B, heads, DV, H, W]
    table_ptr,  # [B, heads, 2h-1, 2w-1] or None
    grad_ptr,  # [B, heads, DV, H, W]
    d_query_ptr,  # [B, heads, D, H, W] or None
    d_key_ptr,  # [B, heads, D, H, W] or None
    d_value_ptr,  # [B, heads, DV, H, W] or None
    d_table_ptr,  # [heads, SLOTS, GROUPS, PACK, h·w, h·w] float32, contiguous, or None
    query_strides,
    key_strides,
    value_strides,
    table_strides,
    grad_strides,
    d_query_strides,
    d_key_strides,
    d_value_strides,
    SLOTS,
    GROUPS,
    scale,
    layout,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dV = PᵀG, dS = P∘(dP - <P, dP>) with dP = GVᵀ, dQ = s·dS K, dK = s·dSᵀQ."""
    head, slot, group, tokens, label, visible = locate(
        tl.program_id(0), SLOTS, GROUPS, layout, WINDOW_H, WINDOW_W, BLOCK
    )
    query = load_tokens(query_ptr, query_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    key = load_tokens(key_ptr, key_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    table = load_table(table_ptr, table_strides, 0, slot, head, group, WINDOW_H, WINDOW_W, BLOCK)
    p = softmax(query, key, table, visible, scale, PRECISION)
    tl.debug_barrier()
    grad = load_tokens(grad_ptr, grad_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    if d_value_ptr is not None:
        d_value = dot(tl.trans(p.to(grad.dtype)), grad, None, PRECISION)
        store_tokens(d_value_ptr, d_value_strides, d_value, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    value = load_tokens(value_ptr, value_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    d_s = p * centred(p, times_transposed(grad, value, PRECISION))
    if d_table_ptr is not None:
        store_scores(d_table_ptr, d_s, WINDOW_H, WINDOW_W, BLOCK)
    d_s = d_s.to(query.dtype)
    if d_query_ptr is not None:
        d_query = dot(d_s, key, None, PRECISION) * scale
        store_tokens(d_query_ptr, d_query_strides, d_query, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    if d_key_ptr is not None:
        d_key = dot(tl.trans(d_s), query, None, PRECISION) * scale
        store_tokens(d_key_ptr, d_key_strides, d_key, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)


@triton.jit
def window_attention_backward_tangent_kernel(
    query_ptr,  # [B, heads, D, H, W]
    key_ptr,  # [B, heads, D, H, W]
    value_ptr,  # [B, heads, DV, H, W]
    table_ptr,  # [B, heads, 2h-1, 2w-1] or None
    grad_ptr,  # [B, heads, DV, H, W]
    t_query_ptr,  # [T, B, heads, D, H, W] or None
    t_key_ptr,  # [T, B, heads, D, H, W] or None
    t_value_ptr,  # [T, B, heads, DV, H, W] or None
    t_table_ptr,  # [T, B, heads, 2h-1, 2w-1] or None
    t_grad_ptr,  # [T, B, heads, DV, H, W] or None
    t_d_query_ptr,  # [T, B, heads, D, H, W] or None
    t_d_key_ptr,  # [T, B, heads, D, H, W] or None
    t_d_value_ptr,  # [T, B, heads, DV, H, W] or None
    t_d_table_ptr,  # [heads, SLOTS, GROUPS, T, PACK, h·w, h·w] float32, contiguous, or None
    query_strides,
    key_strides,
    value_strides,
    table_strides,
    grad_strides,
    t_query_strides,
    t_key_strides,
    t_value_strides,
    t_table_strides,
    t_grad_strides,
    t_d_query_strides,
    t_d_key_strides,
    t_d_value_strides,
    T,
    SLOTS,
    GROUPS,
    scale,
    layout,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The tangents of dQ, dK, dV and dS, with R = S' - <P, S'>, C = dP - <P, dP> and dP' = G'Vᵀ + GV'ᵀ:

    P' = P∘R and dS' = P∘(E - <P, E>) with E = R∘C + dP'.
    """
    program = tl.program_id(0)
    t = program % T  # neighbours share the primal, so that it stays in cache
    head, slot, group, tokens, label, visible = locate(program // T, SLOTS, GROUPS, layout, WINDOW_H, WINDOW_W, BLOCK)
    query = load_tokens(query_ptr, query_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    key = load_tokens(key_ptr, key_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    table = load_table(table_ptr, table_strides, 0, slot, head, group, WINDOW_H, WINDOW_W, BLOCK)
    p = softmax(query, key, table, visible, scale, PRECISION)
    tl.debug_barrier()
    value = load_tokens(value_ptr, value_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    grad = load_tokens(grad_ptr, grad_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    c = centred(p, times_transposed(grad, value, PRECISION))
    tl.debug_barrier()
    t_query = load_tokens(t_query_ptr, t_query_strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    t_key = load_tokens(t_key_ptr, t_key_strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    t_table = load_table(t_table_ptr, t_table_strides, t, slot, head, t, WINDOW_H, WINDOW_W, BLOCK)
    r = centred(p, scores_tangent(query, t_query, key, t_key, t_table, scale, PRECISION))
    tl.debug_barrier()
    t_value = load_tokens(t_value_ptr, t_value_strides, t, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    t_grad = load_tokens(t_grad_ptr, t_grad_strides, t, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    e = times_transposed_tangent(grad, t_grad, value, t_value, PRECISION)
    if r is not None:
        e = r * c if e is None else e + r * c
    if t_d_value_ptr is not None:
        t_d_value = tl.zeros([BLOCK, BLOCK_DV], tl.float32)
        if r is not None:
            t_d_value = dot(tl.trans((p * r).to(grad.dtype)), grad, t_d_value, PRECISION)
        if t_grad is not None:
            t_d_value = dot(tl.trans(p.to(t_grad.dtype)), t_grad, t_d_value, PRECISION)
        store_tokens(t_d_value_ptr, t_d_value_strides, t_d_value, t, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    t_d_s = p * centred(p, e)
    if t_d_table_ptr is not None:
        store_scores(t_d_table_ptr, t_d_s, WINDOW_H, WINDOW_W, BLOCK)
    t_d_s = t_d_s.to(query.dtype)
    d_s = (p * c).to(query.dtype)
    if t_d_query_ptr is not None:
        t_d_query = dot(t_d_s, key, None, PRECISION)
        if t_key is not None:
            t_d_query = dot(d_s, t_key, t_d_query, PRECISION)
        t_d_query *= scale
        store_tokens(t_d_query_ptr, t_d_query_strides, t_d_query, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    if t_d_key_ptr is not None:
        t_d_key = dot(tl.trans(t_d_s), query, None, PRECISION)
        if t_query is not None:
            t_d_key = dot(tl.trans(d_s), t_query, t_d_key, PRECISION)
        t_d_key *= scale
        store_tokens(t_d_key_ptr, t_d_key_strides, t_d_key, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
