"""Inputs and the plain formula that every backend and every derivative of attention is tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draws import normals
from .operator import attention_operator as operator  # noqa: F401 - what the tests find here


def eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None = None,
    *,
    scale: float,
    is_causal: bool,
    grid: Sequence[int] = (),
    kernel_size: Sequence[int] = (),
) -> Tensor:
    """Attention by PyTorch's own operations, differentiated by PyTorch: the oracle, no part of any backend."""
    if key.shape[1] != query.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = scale * (query @ key.mT)
    if bias is not None:
        scores = scores + bias
    if table is not None:
        scores = scores + relative_position_bias(table, grid)
    if kernel_size:
        scores = scores.masked_fill(~neighbours(grid, kernel_size), -torch.inf)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores).tril() == 0, -torch.inf)
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return weights @ value


def relative_position_bias(table: Tensor, grid: Sequence[int]) -> Tensor:
    """The bias [..., hw, hw] of every pair of tokens from a table [..., 2h-1, 2w-1]: its windows, last one first."""
    windows = table.unfold(-2, grid[0], 1).unfold(-2, grid[1], 1)  # [..., first row, first column, h, w]
    return windows.flip(-4, -3).flatten(-2).flatten(-3, -2)


def neighbours(grid: Sequence[int], kernel_size: Sequence[int]) -> Tensor:
    """Which keys a k x l neighbourhood shows to a query, by a convolution of each query's picture with ones."""
    pictures = torch.eye(grid[0] * grid[1]).unflatten(1, tuple(grid))[:, None]
    flipped = F.conv_transpose2d(pictures, torch.ones(1, 1, *kernel_size))
    top, left = ((size - 1) // 2 for size in kernel_size)
    return flipped[:, 0, top : top + grid[0], left : left + grid[1]].flatten(1) > 0


def inputs(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    size: int,
    value_size: int,
    bias: tuple[int, ...] | None = None,
    *,
    hidden: bool = False,
    dtype: torch.dtype = torch.float64,
    key_heads: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """query, key, value and bias; with ``hidden``, -inf hides a third of the keys and every key from query 0."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator, dtype)
    b = None if bias is None else normal(*bias)
    if b is not None and hidden:
        b = b.masked_fill(torch.rand(b.shape, generator=generator) < 1 / 3, -torch.inf)
        b[..., 0, :] = -torch.inf
    key_heads = heads if key_heads is None else key_heads
    query, key = normal(batch, heads, queries, size), normal(batch, key_heads, keys, size)
    return query, key, normal(batch, key_heads, keys, value_size), b


def on_grid(
    batch: int,
    heads: int,
    grid: tuple[int, int],
    size: int,
    table: tuple[int, int],
    bias: tuple[int, ...] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor | None, ...]:
    """query, key, value, bias and table [*table, 2h-1, 2w-1] of tokens on a grid."""
    tokens = math.prod(grid)
    generator = torch.Generator().manual_seed(seed + 1)
    entries = torch.randn(*table, *(2 * n - 1 for n in grid), generator=generator, dtype=torch.float64).to(dtype)
    return *inputs(batch, heads, tokens, tokens, size, size, bias, dtype=dtype, seed=seed), entries


def parameters(
    scale: float, is_causal: bool = False, grid: Sequence[int] = (), kernel_size: Sequence[int] = ()
) -> dict[str, Any]:
    """All of the operator's parameters, in its order."""
    return {"scale": scale, "is_causal": is_causal, "grid": list(grid), "kernel_size": list(kernel_size)}


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "plain": (inputs(2, 2, 5, 7, 4, 3), parameters(0.5)),
    "one key": (inputs(1, 2, 3, 1, 5, 5), parameters(1.0)),
    "bias per head": (inputs(2, 3, 4, 6, 4, 4, (1, 3, 4, 6)), parameters(0.4)),
    "bias per sample": (inputs(2, 3, 4, 6, 4, 4, (2, 1, 4, 6)), parameters(0.4)),
    "bias per key": (inputs(2, 2, 4, 5, 3, 4, (2, 1, 1, 5)), parameters(0.6)),
    "bias per query": (inputs(2, 2, 4, 5, 3, 4, (1, 2, 4, 1)), parameters(0.6)),
    "hidden keys": (inputs(2, 2, 5, 6, 4, 4, (2, 2, 5, 6), hidden=True), parameters(0.5)),
    "causal": (inputs(1, 2, 6, 4, 4, 4, (1, 2, 6, 4)), parameters(1 / math.sqrt(4), is_causal=True)),
    "grouped queries": (inputs(2, 4, 5, 3, 3, 4, (1, 4, 1, 3), key_heads=2), parameters(0.5)),
    "table": (on_grid(2, 2, (2, 3), 4, (1, 1)), parameters(0.5, grid=(2, 3))),
    "table per head, bias": (on_grid(2, 2, (3, 2), 3, (1, 2), (2, 1, 1, 6)), parameters(0.5, grid=(3, 2))),
    "neighbours": (inputs(2, 2, 12, 12, 3, 3), parameters(0.5, grid=(4, 3), kernel_size=(3, 2))),
    "table, neighbours": (on_grid(1, 2, (2, 4), 3, (1, 2)), parameters(0.5, grid=(2, 4), kernel_size=(2, 3))),
}
