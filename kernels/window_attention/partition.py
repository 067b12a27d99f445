"""Windows of a map as tokens, and tokens as a map again, for the reference and for windows too large for kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """A map of ``height`` x ``width`` pixels cut into windows, the first whole one of which begins at ``shift``."""

    height: int
    width: int
    window: Sequence[int]
    shift: Sequence[int]

    def cut(self, x: Tensor) -> Tensor:
        """[..., heads, D, H, W] -> [..., rows, columns, heads, h·w, D], one copy; zeros beyond the map."""
        if any(self.padding):
            x = F.pad(x, self.padding)
        x = x.unflatten(-1, (-1, self.window[1])).unflatten(-3, (-1, self.window[0]))
        *lead, head, feature, row, i, column, j = range(x.dim())
        return x.permute(*lead, row, column, head, i, j, feature).flatten(-3, -2)

    def put_back(self, x: Tensor, *, channels_last: bool = False) -> Tensor:
        """The inverse of ``cut``: a view of the padded map, one copy.

        ``channels_last`` says how it lies in memory: as [..., H, W, heads, D].
        """
        x = x.unflatten(-2, self.window)
        *lead, row, column, head, i, j, feature = range(x.dim())
        if channels_last:
            x = x.permute(*lead, row, i, column, j, head, feature).flatten(-4, -3).flatten(-5, -4)
            x = x.movedim((-2, -1), (-4, -3))
        else:
            x = x.permute(*lead, head, feature, row, i, column, j).flatten(-2).flatten(-3, -2)
        left, _, top, _ = self.padding
        return x[..., top : top + self.height, left : left + self.width]

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        left, right, top, bottom = self.padding
        return (self.height + top + bottom) // self.window[0], (self.width + left + right) // self.window[1]

    def hidden(self, device: torch.device) -> Tensor | None:
        """Which keys of the padded windows are no pixels of the map: boolean [rows, columns, h·w], None if none are."""
        left, right, top, bottom = self.padding
        if not any(self.padding):
            return None
        rows = _between(top, self.height, bottom, device).unflatten(0, (-1, self.window[0]))
        columns = _between(left, self.width, right, device).unflatten(0, (-1, self.window[1]))
        return ~(rows[:, None, :, None] & columns[None, :, None, :]).flatten(2)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """What lies before the first whole window and beyond the last: left, right, top, bottom."""
        top, left = (-s % w for s, w in zip(self.shift, self.window, strict=True))
        return left, -(self.width + left) % self.window[1], top, -(self.height + top) % self.window[0]


def _between(before: int, length: int, after: int, device: torch.device) -> Tensor:
    place = torch.arange(-before, length + after, device=device)
    return (place >= 0) & (place < length)
