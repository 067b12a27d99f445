"""Inputs and the plain formula that every backend and every derivative of attention is tested on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operator import attention_operator as operator  # noqa: F401 - what the tests find here


def eager(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, scale: float, is_causal: bool) -> Tensor:
    """Attention by PyTorch's own operations, differentiated by PyTorch: the oracle, no part of any backend."""
    scores = scale * (query @ key.mT)
    if bias is not None:
        scores = scores + bias
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores).tril() == 0, -torch.inf)
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return weights @ value


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
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """query, key, value and bias; with ``hidden``, -inf hides a third of the keys and every key from query 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    b = None if bias is None else normal(*bias)
    if b is not None and hidden:
        b = b.masked_fill(torch.rand(b.shape, generator=generator) < 1 / 3, -torch.inf)
        b[..., 0, :] = -torch.inf
    query, key = normal(batch, heads, queries, size), normal(batch, heads, keys, size)
    return query, key, normal(batch, heads, keys, value_size), b


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "plain": (inputs(2, 2, 5, 7, 4, 3), {"scale": 0.5, "is_causal": False}),
    "one key": (inputs(1, 2, 3, 1, 5, 5), {"scale": 1.0, "is_causal": False}),
    "bias per head": (inputs(2, 3, 4, 6, 4, 4, (1, 3, 4, 6)), {"scale": 0.4, "is_causal": False}),
    "bias per sample": (inputs(2, 3, 4, 6, 4, 4, (2, 1, 4, 6)), {"scale": 0.4, "is_causal": False}),
    "bias per key": (inputs(2, 2, 4, 5, 3, 4, (2, 1, 1, 5)), {"scale": 0.6, "is_causal": False}),
    "bias per query": (inputs(2, 2, 4, 5, 3, 4, (1, 2, 4, 1)), {"scale": 0.6, "is_causal": False}),
    "hidden keys": (inputs(2, 2, 5, 6, 4, 4, (2, 2, 5, 6), hidden=True), {"scale": 0.5, "is_causal": False}),
    "causal": (inputs(1, 2, 6, 4, 4, 4, (1, 2, 6, 4)), {"scale": 1 / math.sqrt(4), "is_causal": True}),
}
