"""Attention within the windows of feature maps, and every derivative of it.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, which cut windows and put them back
themselves: each map is read once and written once. ``README.md`` derives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention import MAX_HEAD_SIZE, attention
from ..checks import check_floating, check_like, finite, integer, lowered_by_autocast, pair
from .operator import window_attention_operator
from .partition import Partition

MAX_TOKENS = 256  # of a window whose scores the kernels hold as a whole


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
        table: a bias by relative position, [2h-1, 2w-1] or [num_heads, 2h-1, 2w-1], gathered inside the kernels:
            bias[i, j] = table[row(j) - row(i) + h-1, column(j) - column(i) + w-1].
        scale: a finite number, a constant; 1/sqrt(C / num_heads) by default.

    Returns:
        [B, Cv, H, W] in query's dtype and memory format, contiguous or channels-last. float16 and bfloat16 are
        accumulated in float32. Windows of more than 256 pixels are cut by PyTorch, and run on ``attention``.

    Raises:
        TypeError: an argument is not a floating-point tensor, dtypes differ, or a number is none.
        ValueError: numbers are out of range, or shapes or devices do not fit.

    Source: Liu et al., "Swin Transformer", 2021; Park & Kim, "How Do Vision Transformers Work?", 2022, figure 8.
    """
    query, key, value, table = lowered_by_autocast(query, key, value, table)
    num_heads = integer("num_heads", num_heads)
    height, width = _check_maps(query, key, value, num_heads)
    window, offset = pair("window_size", window_size, or_one=True), pair("shift", shift, 0, or_one=True)
    _check_table(table, query, num_heads, window)
    window, offset, table = _fitted_to_map((height, width), window, offset, table)
    scale = 1.0 / math.sqrt(query.shape[1] // num_heads) if scale is None else finite("scale", scale)
    channels_last = not query.is_contiguous() and query.is_contiguous(memory_format=torch.channels_last)
    maps = [t.unflatten(1, (num_heads, -1)) for t in (query, key, value)]
    if window[0] * window[1] > MAX_TOKENS:
        return _composed(maps, table, Partition(height, width, window, offset), scale, channels_last).flatten(1, 2)
    if table is not None:
        table = table.reshape(1, -1, *table.shape[-2:])
    if not channels_last:
        return window_attention_operator(*maps, table, window, offset, scale, False).flatten(1, 2)
    maps = [t.movedim((1, 2), (-2, -1)) for t in maps]
    return window_attention_operator(*maps, table, window, offset, scale, True).flatten(-2).movedim(-1, 1)


def _fitted_to_map(
    pixels: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], table: Tensor | None
) -> tuple[tuple[int, int], tuple[int, int], Tensor | None]:
    """The same windows by sizes no larger than the map, so that nobody pads it to more; the middle of the table."""
    (h, down), (w, right) = (_fitted(*axis) for axis in zip(pixels, window, shift, strict=True))
    if table is not None:
        table = table[..., window[0] - h : window[0] + h - 1, window[1] - w : window[1] + w - 1]
    return (h, w), (down, right), table


def _fitted(pixels: int, window: int, shift: int) -> tuple[int, int]:
    """The size and the shift of one axis."""
    if window <= pixels:
        return window, shift
    first = shift % window
    if not 0 < first < pixels:  # one window holds all
        return pixels, 0
    longest = max(first, pixels - first)
    return longest, first % longest


def _composed(
    maps: Sequence[Tensor], table: Tensor | None, windows: Partition, scale: float, channels_last: bool
) -> Tensor:
    """Windows cut by PyTorch and ``attention`` on them: cutting is little beside attention where windows are large."""
    hidden = windows.hidden(maps[0].device)
    mask = None if hidden is None else ~hidden[:, :, None, None]
    q, k, v = (windows.cut(t) for t in maps)
    out = attention(q, k, v, mask, table=table, grid=(windows.window[0], windows.window[1]), scale=scale)
    return windows.put_back(out, channels_last=channels_last)


def _check_table(table: Any, query: Tensor, num_heads: int, window: tuple[int, int]) -> None:
    if table is None:
        return
    check_floating("table", table)
    shape = (2 * window[0] - 1, 2 * window[1] - 1)
    check_like("table", table, query, shape if table.shape[:-2] == () else (*table.shape[:1], *shape), "query")
    if table.dim() == 3 and table.shape[0] not in (1, num_heads):
        raise ValueError(f"table: {table.shape[0]} heads, expected 1 or {num_heads}")


def _check_maps(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> tuple[int, int]:
    """Height and width."""
    if num_heads < 1:
        raise ValueError(f"num_heads: expected a positive integer, got {num_heads}")
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_floating(name, x)
        if x.dim() != 4 or x.shape[1] == 0 or x.shape[1] % num_heads:
            channels = f"C a positive multiple of num_heads = {num_heads}"
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected [B, C, H, W] with {channels}")
        if (x.shape[0], *x.shape[2:]) != (query.shape[0], *query.shape[2:]):
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected query's B, H and W of {tuple(query.shape)}")
        check_like(name, x, query, (query.shape[0], x.shape[1], *query.shape[2:]), "query")
        if x.shape[1] // num_heads > MAX_HEAD_SIZE:
            raise ValueError(f"{name}: head size {x.shape[1] // num_heads}, expected 1 to {MAX_HEAD_SIZE}")
    if key.shape[1] != query.shape[1]:
        raise ValueError(f"key: {key.shape[1]} channels, expected query's {query.shape[1]}")
    height, width = query.shape[2:]
    if height == 0 or width == 0:
        raise ValueError(f"query: shape {tuple(query.shape)}, expected at least one pixel")
    return height, width
