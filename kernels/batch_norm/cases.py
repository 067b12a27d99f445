"""Inputs and the plain formula that every backend and every derivative of batch normalisation is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..draws import normals
from .operator import batch_norm_operator as operator  # noqa: F401 - what the tests find here


def eager(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *,
    eps: float,
    activation: str,
) -> Tensor:
    """Batch normalisation by PyTorch's own operations: the oracle, no part of any backend."""
    if mean is None:
        mean = x.mean((1, 3), keepdim=True)
        var = ((x - mean) ** 2).mean((1, 3), keepdim=True)
    assert var is not None
    y = (x - mean) / var.add(eps).sqrt()
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.relu() if activation == "relu" else y


def inputs(
    batch: int,
    rows: int,
    width: int,
    channels: int = 3,
    groups: int = 1,
    affine: bool = True,
    constant: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """x [batch groups, rows samples, channels, width], weight and bias, and statistics where they are ``constant``."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator)
    x = 1.5 * normal(batch, rows, channels, width) + 0.5
    w, b = (0.5 * normal(groups, 1, channels, 1) + shift for shift in (1.0, 0.0)) if affine else (None, None)
    mean = var = None
    if constant:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mean, var = normal(1, 1, channels, 1).to(wide), normal(1, 1, channels, 1).exp().to(wide)
    return x.to(dtype), None if w is None else w.to(dtype), None if b is None else b.to(dtype), mean, var


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "batch, relu": (inputs(1, 3, 4), {"eps": 1e-5, "activation": "relu"}),
    "batch, plain": (inputs(2, 2, 3, 2, affine=False), {"eps": 1e-3, "activation": "none"}),
    "constant, relu": (inputs(1, 2, 3, 2, constant=True), {"eps": 1e-5, "activation": "relu"}),
}
