"""Inputs and the plain formula that every backend and every derivative of window attention is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..draws import normals
from .operator import window_attention_operator as operator  # noqa: F401 - what the tests find here


def eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
) -> Tensor:
    """From the definition: one attention over all pixels, in which those of other windows are not seen."""
    if channels_last:
        query, key, value = (x.movedim((-2, -1), (1, 2)) for x in (query, key, value))
    height, width = query.shape[-2:]
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    q, k, v = (x.flatten(3).mT for x in (query, key, value))
    scores = scale * (q @ k.mT)
    if table is not None:
        (h, w), down, right = window_size, row - row[:, None], column - column[:, None]
        scores = scores + table[..., down.clamp(1 - h, h - 1) + h - 1, right.clamp(1 - w, w - 1) + w - 1]
    window = ((row - shift[0]) // window_size[0], (column - shift[1]) // window_size[1])
    same = (window[0][:, None] == window[0]) & (window[1][:, None] == window[1])
    out = scores.masked_fill(~same, -torch.inf).softmax(-1) @ v
    out = out.mT.unflatten(-1, (height, width))
    return out.movedim((1, 2), (-2, -1)) if channels_last else out


def inputs(
    batch: int,
    heads: int,
    size: int,
    value_size: int,
    pixels: tuple[int, int],
    table: tuple[int, ...] | None = None,
    *,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor | None, ...]:
    """query, key, value and a table of this shape; ``size`` and ``value_size`` are channels of one head."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator, dtype)

    def picture(channels: int) -> Tensor:
        return normal(batch, *pixels, heads, channels) if channels_last else normal(batch, heads, channels, *pixels)

    maps = (picture(n) for n in (size, size, value_size))
    return *maps, None if table is None else normal(*table)


def parameters(
    window_size: tuple[int, int],
    scale: float,
    shift: tuple[int, int] = (0, 0),
    channels_last: bool = False,
) -> dict[str, Any]:
    """All of the operator's parameters, in its order."""
    return {
        "window_size": list(window_size),
        "shift": list(shift),
        "scale": scale,
        "channels_last": channels_last,
    }


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "plain": (inputs(2, 2, 2, 3, (4, 4)), parameters((2, 2), 0.5)),
    "table, clipped": (inputs(2, 2, 2, 2, (3, 5), (1, 1, 3, 5)), parameters((2, 3), 0.4)),
    "table per head, shifted": (inputs(1, 2, 2, 2, (4, 4), (1, 2, 3, 5)), parameters((2, 3), 0.6, (1, 2))),
    "table per image, channels last": (
        inputs(2, 1, 3, 2, (4, 3), (2, 1, 5, 3), channels_last=True),
        parameters((3, 2), 0.5, (2, 1), channels_last=True),
    ),
}
