"""The specification: the four maps of window attention in plain PyTorch, by attention's own.

``maps`` are attention's: its reference, or those of a backend that has no kernel of its own for windows so large.

A window is a rectangle of at most h x w pixels: the map is cut along the rows y with (y - shift[0]) % h = 0 and the
columns x with (x - shift[1]) % w = 0. Attention within each of them is attention on a batch of windows; cutting a map
and putting it back are linear, so that every derivative passes through them as it is.

Maps are [B, heads, D, H, W], or [B, H, W, heads, D] with ``channels_last``: the channels of a map are its heads,
one after the other. value and out have Dv in place of D. The table is [B | 1, heads | 1, 2h-1, 2w-1] or None. There are
no residuals: a kernel has all keys of a query before it and finds their sum again. float16 and bfloat16 are computed in
float32. Every window holds at least one pixel, every pixel sees itself.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention import reference as attention
from .partition import Partition


def forward(
    query, key, value, table,
    *, window_size: Sequence[int], shift: Sequence[int], scale: float, channels_last: bool, maps: Any = attention,
) -> tuple[Tensor]:  # fmt: skip
    """Returns out [B, heads, Dv, H, W], or [B, H, W, heads, Dv]."""
    windows = _Windows(query, window_size, shift, scale, channels_last)
    out, _ = maps.forward(*windows.inputs(query, key, value, table), **windows.parameters)
    return (windows.map_of(out),)


def tangent(
    query, key, value, table, out, t_query, t_key, t_value, t_table,
    *, window_size: Sequence[int], shift: Sequence[int], scale: float, channels_last: bool, maps: Any = attention,
) -> tuple[Tensor]:  # fmt: skip
    """Returns t_out [T, ...]."""
    windows = _Windows(query, window_size, shift, scale, channels_last)
    x = windows.inputs(query, key, value, table)
    t_x = windows.tangents(t_query, t_key, t_value, t_table)
    yr: Sequence[Any] = maps.forward(*x, **windows.parameters)
    t_out, _ = maps.tangent(*x, *yr, *t_x, **windows.parameters)
    return (windows.map_of(t_out),)


def backward(
    query, key, value, table, out, grad,
    *, window_size: Sequence[int], shift: Sequence[int], scale: float, channels_last: bool, needs,
    maps: Any = attention,
):  # fmt: skip
    """Returns d_query, d_key, d_value, d_table, in the shapes of the inputs; ``None`` where not needed."""
    windows = _Windows(query, window_size, shift, scale, channels_last)
    x = windows.inputs(query, key, value, table)
    yr: Sequence[Any] = maps.forward(*x, **windows.parameters)
    given: list[Any] = [*x, *yr, windows.cut(grad)]
    gradients = maps.backward(*given, needs=_with_bias(needs), **windows.parameters)
    return windows.gradients(gradients, table)


def backward_tangent(
    query, key, value, table, out, grad, t_query, t_key, t_value, t_table, t_out, t_grad,
    *, window_size: Sequence[int], shift: Sequence[int], scale: float, channels_last: bool, needs,
    maps: Any = attention,
):  # fmt: skip
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    windows = _Windows(query, window_size, shift, scale, channels_last)
    x = windows.inputs(query, key, value, table)
    t_x = windows.tangents(t_query, t_key, t_value, t_table)
    yr: Sequence[Any] = maps.forward(*x, **windows.parameters)
    t_yr: Sequence[Any] = (None, None)
    if any(t is not None for t in t_x):
        t_yr = maps.tangent(*x, *yr, *t_x, **windows.parameters)
    given: list[Any] = [*x, *yr, windows.cut(grad), *t_x, *t_yr, windows.cut(t_grad)]
    gradients = maps.backward_tangent(*given, needs=_with_bias(needs), **windows.parameters)
    return windows.gradients(gradients, table)


class _Windows:
    """From maps to a batch [B·rows·columns, heads, h·w, D] for attention, and back."""

    def __init__(self, query: Tensor, window_size, shift, scale: float, channels_last: bool) -> None:
        self.batch, self.channels_last = query.shape[0], channels_last
        height, width = query.shape[1:3] if channels_last else query.shape[3:]
        self.partition = Partition(height, width, window_size, shift)
        self.parameters: dict[str, Any] = {"scale": scale, "is_causal": False, "grid": window_size, "kernel_size": []}

    def inputs(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor | None) -> tuple:
        """Attention's query, key, value, bias and table."""
        q = self.cut(query)
        hidden = self.partition.hidden(query.device)
        bias = None
        if hidden is not None:
            bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
            bias = bias.flatten(0, 1)[:, None, None].repeat(self.batch, 1, 1, 1)
        return q, self.cut(key), self.cut(value), bias, self._spread(table)

    def tangents(self, t_query, t_key, t_value, t_table) -> tuple:
        return self.cut(t_query), self.cut(t_key), self.cut(t_value), None, self._spread(t_table)

    def cut(self, x: Tensor | None) -> Any:
        """[(T,) B, ...] -> [(T,) B·rows·columns, heads, h·w, D]."""
        if x is None:
            return None
        return self.partition.cut(x.movedim((-2, -1), (-4, -3)) if self.channels_last else x).flatten(-6, -4)

    def map_of(self, x: Tensor) -> Tensor:
        """[(T,) B·rows·columns, heads, h·w, D] -> the map, contiguous."""
        x = self.partition.put_back(
            x.unflatten(-4, (self.batch, *self.partition.counts)), channels_last=self.channels_last
        )
        return (x.movedim((-4, -3), (-2, -1)) if self.channels_last else x).contiguous()

    def gradients(self, gradients: Sequence[Tensor | None], table: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the maps and the table, from those of attention's inputs."""
        *maps, _, d_table = gradients
        if d_table is not None and table is not None and table.shape[0] > 1:  # the windows of an image share a table
            d_table = d_table.unflatten(-4, (self.batch, -1)).sum(-4)
        return *(None if m is None else self.map_of(m) for m in maps), d_table

    def _spread(self, table: Tensor | None) -> Tensor | None:
        """A table for each image is one for each of its windows."""
        if table is None or table.shape[-4] == 1:
            return table
        rows, columns = self.partition.counts
        return table.repeat_interleave(rows * columns, -4)


def _with_bias(needs: Sequence[bool]) -> tuple[bool, ...]:
    """The flags of attention, which has a bias between value and table."""
    return (*needs[:3], False, needs[3])
