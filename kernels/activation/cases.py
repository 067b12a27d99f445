"""Inputs and the plain formula that every backend and every derivative of the activations is tested on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operator import activation_operator as operator  # noqa: F401 - what the tests find here


def eager(x: Tensor, bias: Tensor | None, *, kind: str) -> Tensor:
    """Activations by PyTorch's own operations, differentiated by PyTorch: the oracle, no part of any backend."""
    u = x if bias is None else x + bias
    if kind == "relu":
        return torch.relu(u)
    if kind == "gelu":
        return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
    return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


def inputs(
    batch: int, rows: int, width: int, bias: int | None = 1, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor | None]:
    """x and bias; ``bias`` is the size of its batch axis, ``None`` for no bias."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(batch, rows, width, generator=generator, dtype=torch.float64)
    b = None if bias is None else torch.randn(bias, 1, width, generator=generator, dtype=torch.float64).to(dtype)
    return x.to(dtype), b


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "gelu": (inputs(1, 3, 5), {"kind": "gelu"}),
    "gelu tanh": (inputs(2, 3, 4, 2), {"kind": "gelu_tanh"}),
    "relu": (inputs(2, 3, 4, None), {"kind": "relu"}),
    "gelu of a vector": ((inputs(1, 1, 5, None)[0][0, 0], None), {"kind": "gelu"}),
    "gelu of a matrix": ((inputs(1, 3, 4, None)[0][0], None), {"kind": "gelu"}),
}
