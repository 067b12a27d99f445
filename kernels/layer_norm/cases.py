"""Inputs and the plain formula that every backend and every derivative of layer normalisation is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..draws import normals
from .operator import layer_norm_operator as operator  # noqa: F401 - what the tests find here


def eager(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> Tensor:
    """Layer normalisation by PyTorch's own operations: the oracle, no part of any backend."""
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def inputs(
    batch: int,
    rows: int,
    width: int,
    weight: int | None = 1,
    bias: int | None = 1,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, weight and bias; ``weight`` and ``bias`` are the sizes of their batch axis, ``None`` for a missing one."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator)
    x = 1.5 * normal(batch, rows, width) + 0.5
    w, b = (None if n is None else 1 + 0.5 * normal(n, 1, width) for n in (weight, bias))
    return x.to(dtype), None if w is None else w.to(dtype), None if b is None else b.to(dtype)


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "weight and bias": (inputs(1, 5, 7), {"eps": 1e-5}),
    "a weight each": (inputs(2, 3, 4, 2, 1), {"eps": 1e-2}),
    "plain": (inputs(2, 3, 6, None, None), {"eps": 1e-5}),
}
