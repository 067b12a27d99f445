"""The four maps of a linear layer, y = x Wᵀ + b, in plain PyTorch.

    y'  = x' Wᵀ + x W'ᵀ + b'
    d_x = g W,      d_x' = g' W + g W'
    d_W = gᵀ x,     d_W' = g'ᵀ x + gᵀ x'
    d_b = Σ g,      d_b' = Σ g'

Shapes: x [E, N, C], weight [E, O, C], bias [E, O] or None, y [E, N, O], with E members, 1 but under ``vmap``; tangents
with T in front. A product that nobody needs is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..missing import count, filled, plus


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
    """Returns y."""
    return (plus(x @ weight.mT, None if bias is None else bias[:, None]),)


def tangent(x, weight, bias, y, t_x, t_weight, t_bias) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    t_y: Any = None if t_x is None else t_x @ weight.mT
    t_y = plus(t_y, None if t_weight is None else x @ t_weight.mT)
    if t_bias is not None:
        shift = t_bias[:, :, None].expand(-1, -1, x.shape[1], -1)
        t_y = shift.clone(memory_format=torch.contiguous_format) if t_y is None else t_y + shift
    return (t_y,)


def backward(x, weight, bias, y, grad, *, needs) -> tuple[Tensor | None, ...]:
    """Returns d_x, d_weight and d_bias in the shapes of the inputs; ``None`` where not needed."""
    d_x = grad @ weight if needs[0] else None
    d_weight = grad.mT @ x if needs[1] else None
    return d_x, d_weight, grad.sum(1) if needs[2] else None


def backward_tangent(
    x, weight, bias, y, grad, t_x, t_weight, t_bias, t_y, t_grad, *, needs
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    T = count(t_x, t_weight, t_bias, t_grad)
    d_x: Any = None if t_grad is None else t_grad @ weight
    d_x = plus(d_x, None if t_weight is None else grad @ t_weight)
    d_weight: Any = None if t_grad is None else t_grad.mT @ x
    d_weight = plus(d_weight, None if t_x is None else grad.mT @ t_x)
    d_bias = None if t_grad is None else t_grad.sum(2)
    results = zip(needs, (d_x, d_weight, d_bias), (x, weight, bias), strict=True)
    return tuple(filled(d, like, T) if need else None for need, d, like in results)
