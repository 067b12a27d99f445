"""Tokens on a grid: what a table of relative positions and a neighbourhood add to the scores, in plain PyTorch.

Token i of a grid (h, w) lies in row i // w and column i % w. A table [2h-1, 2w-1] has an entry for each relative
position of a key: bias[i, j] = table[row(j) - row(i) + h-1, column(j) - column(i) + w-1]. A neighbourhood (k, l) lets a
query see the keys at row offsets -((k-1)//2) .. k//2 and column offsets -((l-1)//2) .. l//2, as a convolution with
``padding="same"`` does: odd sizes are centred, even ones reach one further down and to the right. There are no keys
beyond the border of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import pair


def check_positions(
    queries: int, keys: int, lead: Sequence[int], table: Tensor | None, grid: Any, kernel_size: Any
) -> tuple[list[int], list[int]]:
    """The grid and the kernel size that the operator takes, empty where there is none.

    Raises:
        TypeError: ``grid`` or ``kernel_size`` is neither a pair of integers nor, the latter, one.
        ValueError: they are not positive, or do not fit the tokens, or ``table`` does not fit them.
    """
    window = [] if kernel_size is None else list(pair("kernel_size", kernel_size, or_one=True))
    if grid is None:
        if table is not None or window:
            raise ValueError("grid: expected (height, width) with a table or a kernel_size, got None")
        return [], []
    height, width = pair("grid", grid)
    if queries != height * width or keys != height * width:
        raise ValueError(f"grid: ({height}, {width}) has {height * width} tokens, query {queries} and key {keys}")
    if table is not None:
        shape = (2 * height - 1, 2 * width - 1)
        if table.shape[-2:] != shape or not broadcasts(table.shape[:-2], lead):
            leads = f"{shape} with leading axes that broadcast to {tuple(lead)}"
            raise ValueError(f"table: shape {tuple(table.shape)}, expected {leads}")
    return ([height, width], window) if table is not None or window else ([], [])


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether ``shape`` broadcasts to ``target``, and not the other way round."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def gather(table: Tensor, grid: Sequence[int]) -> Tensor:
    """The bias [..., hw, hw] that a table [..., 2h-1, 2w-1] stands for."""
    tokens = grid[0] * grid[1]
    return table.flatten(-2).index_select(-1, _entries(grid, table.device)).unflatten(-1, (tokens, tokens))


def scatter(d_bias: Tensor, grid: Sequence[int]) -> Tensor:
    """The gradient [..., 2h-1, 2w-1] of a table from that of its bias: the transpose of ``gather``."""
    shape = (2 * grid[0] - 1, 2 * grid[1] - 1)
    zeros = d_bias.new_zeros(*d_bias.shape[:-2], shape[0] * shape[1])
    return zeros.index_add(-1, _entries(grid, d_bias.device), d_bias.flatten(-2)).unflatten(-1, shape)


def hidden(grid: Sequence[int], kernel_size: Sequence[int], device: torch.device) -> Tensor:
    """Which keys lie outside a query's neighbourhood: boolean [hw, hw]."""
    rows, columns = _offsets(grid, device)
    return ~(_within(rows, kernel_size[0]) & _within(columns, kernel_size[1]))


def _within(offsets: Tensor, size: int) -> Tensor:
    return (offsets >= -((size - 1) // 2)) & (offsets <= size // 2)


def _entries(grid: Sequence[int], device: torch.device) -> Tensor:
    """The place in a flat table of every (query, key) of a flat score matrix."""
    rows, columns = _offsets(grid, device)
    return ((rows + grid[0] - 1) * (2 * grid[1] - 1) + columns + grid[1] - 1).flatten()


def _offsets(grid: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns that key j lies below and right of query i, each [hw, hw]."""
    token = torch.arange(grid[0] * grid[1], device=device)
    row, column = token // grid[1], token % grid[1]
    return row - row[:, None], column - column[:, None]
