"""Attention within the windows of feature maps, and every derivative of it.

A composition: windows are cut, ``attention`` runs on them as on a batch, and what it returns is put back. Cutting
copies each map once (the pixels of a window do not lie at one stride); tables are gathered inside the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention import attention
from .partition import Partition


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window_size: int | tuple[int, int],
    num_heads: int,
    shift: int | tuple[int, int] = 0,
    table: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Multi-head attention of every pixel to the pixels of its window, differentiable to any order in all four tensors.

    Args:
        query: [B, C, H, W], floating point, in any memory format; channels are ``num_heads`` heads of C / num_heads.
        key: [B, C, H, W].
        value: [B, Cv, H, W], Cv divisible by ``num_heads``.
        window_size: (h, w), or h for both. A map that it does not divide ends in smaller windows, whose missing pixels
            nobody sees.
        num_heads: how many heads the channels hold, one after the other.
        shift: (down, right), or one number for both: the first whole window begins so far from the upper left corner.
            With half a window this is Swin's shifted partition: what wraps round the border there sees only itself.
        table: a bias by relative position, [2h-1, 2w-1] or [num_heads, 2h-1, 2w-1], as ``attention`` takes it.
        scale: a number; 1/sqrt(C / num_heads) by default.

    Returns:
        [B, Cv, H, W] in query's dtype and memory format, contiguous or channels-last; where windows reach beyond the
        map, a view of a larger one.

    Raises:
        TypeError: a size is not an integer, or what ``attention`` raises.
        ValueError: sizes are not positive, shapes do not fit, or what ``attention`` raises.

    Source: Liu et al., "Swin Transformer", 2021; Park & Kim, "How Do Vision Transformers Work?", 2022, figure 8.
    """
    height, width = _check_maps(query, key, value, num_heads)
    window = _pair("window_size", window_size, 1)
    windows = Partition(height, width, window, _pair("shift", shift, 0))
    hidden = windows.hidden(query.device)
    mask = None if hidden is None else ~hidden[:, :, None, None]
    q, k, v = (windows.cut(t.unflatten(1, (num_heads, -1))) for t in (query, key, value))
    out = attention(q, k, v, mask, table=table, grid=window, scale=scale)
    channels_last = not query.is_contiguous() and query.is_contiguous(memory_format=torch.channels_last)
    return windows.put_back(out, channels_last=channels_last).flatten(1, 2)


def _check_maps(query: Tensor, key: Tensor, value: Tensor, num_heads: Any) -> tuple[int, int]:
    """Height and width."""
    if not isinstance(num_heads, int):
        raise TypeError(f"num_heads: expected an integer, got {num_heads!r}")
    if num_heads < 1:
        raise ValueError(f"num_heads: expected a positive integer, got {num_heads}")
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.dim() != 4 or x.shape[1] == 0 or x.shape[1] % num_heads:
            channels = f"C a positive multiple of num_heads = {num_heads}"
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected [B, C, H, W] with {channels}")
        if (x.shape[0], *x.shape[2:]) != (query.shape[0], *query.shape[2:]):
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected query's B, H and W of {tuple(query.shape)}")
    height, width = query.shape[2:]
    if height == 0 or width == 0:
        raise ValueError(f"query: shape {tuple(query.shape)}, expected at least one pixel")
    return height, width


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(n, int) for n in pair):
        raise TypeError(f"{name}: expected one or two integers, got {value!r}")
    if min(pair) < least:
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")
    return pair[0], pair[1]
