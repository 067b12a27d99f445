"""What is compared: attention with a learned table of relative positions, and attention within windows.

PyTorch has neither as one operator, so that the peer is the composition that the layers of others are made of: windows
are cut and put back by permutations, the bias is gathered from the table by an index, and attention is two products
round a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alternet.kernels import attention, window_attention

from . import suite
from .tasks import TASKS, Function, prepared


@dataclass(frozen=True)
class Shape:
    """Maps of a batch; ``window`` is the side of the windows, or of the whole map where it is not cut."""

    batch: int
    heads: int
    size: int
    side: int
    window: int

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """query, key, value and a table per head; maps [B, heads·D, H, W], or tokens [B, heads, N, D]."""
        x: tuple[int, ...] = (self.batch, self.heads * self.size, self.side, self.side)
        if self.window == self.side:
            x = (self.batch, self.heads, self.side**2, self.size)
        return x, x, x, (self.heads, 2 * self.window - 1, 2 * self.window - 1)

    def functions(self, device: str = "cpu") -> dict[str, Function]:
        if self.window == self.side:
            return {"alternet": self._attention, "eager": _Eager(self.window, device)}
        return {"alternet": self._window_attention, "eager": self._eager_windows(device)}

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        return attention(query, key, value, table=table, grid=(self.side, self.side))

    def _window_attention(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        return window_attention(query, key, value, window_size=self.window, num_heads=self.heads, table=table)

    def _eager_windows(self, device: str) -> Function:
        eager, w, count = _Eager(self.window, device), self.window, self.side // self.window

        def cut(x: Tensor) -> Tensor:
            x = x.view(self.batch, self.heads, self.size, count, w, count, w)
            return x.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, self.heads, w * w, self.size)

        def run(query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
            out = eager(cut(query), cut(key), cut(value), table)
            out = out.view(self.batch, count, count, self.heads, w, w, self.size)
            return out.permute(0, 3, 6, 1, 4, 2, 5).reshape(self.batch, -1, self.side, self.side)

        return run


class _Eager:
    """Attention with a bias gathered from a table by an index made once, as the layers of others make it."""

    def __init__(self, side: int, device: str) -> None:
        token = torch.arange(side * side, device=device)
        row, column = token // side, token % side
        self.index = (row - row[:, None] + side - 1) * (2 * side - 1) + column - column[:, None] + side - 1

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor) -> Tensor:
        bias = table.flatten(1)[:, self.index]
        scores = torch.einsum("bhid,bhjd->bhij", query * query.shape[-1] ** -0.5, key) + bias
        return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), value)


SHAPES = {
    "table per head: 48 x 256 x 64": Shape(batch=16, heads=3, size=64, side=16, window=16),
    "windows of 4: 16 x (3 x 64) x 32 x 32": Shape(batch=16, heads=3, size=64, side=32, window=4),
    "windows of 7: 8 x (6 x 64) x 28 x 28": Shape(batch=8, heads=6, size=64, side=28, window=7),
}


class Cell(suite.Cell):
    """One measurement: a shape, a task and an implementation."""

    def prepare(self) -> Callable[[], object]:
        shape = SHAPES[self.shape]
        return prepared(self.task, shape.functions()[self.implementation], shape.shapes())


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in SHAPES for task in TASKS for name in ("alternet", "eager")]


SUITE = suite.Suite(shapes="maps", peers={"eager": "eager"}, cells=cells)
