"""Inputs and the plain formula that every derivative of the linear layer is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

from ..draws import normals
from .operator import linear_operator as operator  # noqa: F401 - what the tests find here


def eager(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = torch.einsum("enc,eoc->eno", x, weight)
    return y if bias is None else y + bias[:, None]


def inputs(
    rows: int,
    channels: int,
    out_channels: int,
    bias: bool = True,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator, dtype)
    weight = 0.5 * normal(1, out_channels, channels)
    return normal(1, rows, channels), weight, normal(1, out_channels) if bias else None


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES: dict[str, tuple] = {
    "with bias": (inputs(3, 2, 4), {}),
    "without bias": (inputs(2, 5, 3, bias=False), {}),
    "one row": (inputs(1, 3, 2), {}),
}
