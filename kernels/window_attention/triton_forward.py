"""Triton kernels of the forward map and of its tangent: one program for the windows of a tile and a head."""

import triton
import triton.language as tl

from ..attention.triton_tiles import dot
from .triton_tiles import centred, load_table, load_tokens, locate, scores_tangent, softmax, store_tokens


@triton.jit
def window_attention_forward_kernel(
    query_ptr,  # [B, heads, D, H, W]
    key_ptr,  # [B, heads, D, H, W]
    value_ptr,  # [B, heads, DV, H, W]
    table_ptr,  # [B, heads, 2h-1, 2w-1] or None
    out_ptr,  # [B, heads, DV, H, W]
    query_strides,
    key_strides,
    value_strides,
    table_strides,
    out_strides,
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
    """O = PV."""
    head, slot, _group, tokens, label, visible = locate(
        tl.program_id(0), SLOTS, GROUPS, layout, WINDOW_H, WINDOW_W, BLOCK
    )
    query = load_tokens(query_ptr, query_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    key = load_tokens(key_ptr, key_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    value = load_tokens(value_ptr, value_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    table = load_table(table_ptr, table_strides, 0, slot, head, 0, WINDOW_H, WINDOW_W, BLOCK)
    p = softmax(query, key, table, visible, scale, PRECISION)
    out = dot(p.to(value.dtype), value, None, PRECISION)
    store_tokens(out_ptr, out_strides, out, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)


@triton.jit
def window_attention_tangent_kernel(
    query_ptr,  # [B, heads, D, H, W]
    key_ptr,  # [B, heads, D, H, W]
    value_ptr,  # [B, heads, DV, H, W]
    table_ptr,  # [B, heads, 2h-1, 2w-1] or None
    t_query_ptr,  # [T, B, heads, D, H, W] or None
    t_key_ptr,  # [T, B, heads, D, H, W] or None
    t_value_ptr,  # [T, B, heads, DV, H, W] or None
    t_table_ptr,  # [T, B, heads, 2h-1, 2w-1] or None
    t_out_ptr,  # [T, B, heads, DV, H, W]
    query_strides,
    key_strides,
    value_strides,
    table_strides,
    t_query_strides,
    t_key_strides,
    t_value_strides,
    t_table_strides,
    t_out_strides,
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
    """O' = P'V + PV' with P' = P∘(S' - <P, S'>), the tangents one after the other."""
    head, slot, _group, tokens, label, visible = locate(
        tl.program_id(0), SLOTS, GROUPS, layout, WINDOW_H, WINDOW_W, BLOCK
    )
    query = load_tokens(query_ptr, query_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    key = load_tokens(key_ptr, key_strides, 0, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
    value = load_tokens(value_ptr, value_strides, 0, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
    table = load_table(table_ptr, table_strides, 0, slot, head, 0, WINDOW_H, WINDOW_W, BLOCK)
    p = softmax(query, key, table, visible, scale, PRECISION)
    for t in range(T):
        t_query = load_tokens(t_query_ptr, t_query_strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
        t_key = load_tokens(t_key_ptr, t_key_strides, t, head, tokens, label, D, BLOCK_D, CHANNELS_LAST)
        t_value = load_tokens(t_value_ptr, t_value_strides, t, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
        t_table = load_table(t_table_ptr, t_table_strides, t, slot, head, t, WINDOW_H, WINDOW_W, BLOCK)
        r = centred(p, scores_tangent(query, t_query, key, t_key, t_table, scale, PRECISION))
        t_out = None
        if r is not None:
            t_out = dot((p * r).to(value.dtype), value, None, PRECISION)
        if t_value is not None:
            t_out = dot(p.to(t_value.dtype), t_value, t_out, PRECISION)
        store_tokens(t_out_ptr, t_out_strides, t_out, t, head, tokens, label, DV, BLOCK_DV, CHANNELS_LAST)
