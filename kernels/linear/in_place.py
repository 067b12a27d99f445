"""The four maps of a linear layer by PyTorch's own products, a sum of two of them made in one place.

Autograd makes one product, another one, and adds them: the sum alone reads and writes the result three times, which
takes as long as a product of 16-bit numbers. ``reference.py`` has the formulas and the shapes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..missing import count, filled, plus
from .weight_product import weight_product


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
    """Returns y."""
    return (_sum([(x, weight.mT)], _in_every_row(bias, x)),)


def tangent(x, weight, bias, y, t_x, t_weight, t_bias) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    products = []
    if t_x is not None:
        products.append((t_x, weight.mT))
    if t_weight is not None:
        products.append((x, t_weight.mT))
    return (_sum(products, _in_every_row(t_bias, x)),)


def backward(x, weight, bias, y, grad, *, needs) -> tuple[Tensor | None, ...]:
    """Returns d_x, d_weight and d_bias in the shapes of the inputs; ``None`` where not needed."""
    d_x = _sum([(grad, weight)]) if needs[0] else None
    d_weight = _sum_over_rows([(grad, x)]) if needs[1] else None
    return d_x, d_weight, grad.sum(1) if needs[2] else None


def backward_tangent(
    x, weight, bias, y, grad, t_x, t_weight, t_bias, t_y, t_grad, *, needs
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    of_x, of_weight = [], []
    if t_grad is not None:
        of_x.append((t_grad, weight))
        of_weight.append((t_grad, x))
    if t_weight is not None:
        of_x.append((grad, t_weight))
    if t_x is not None:
        of_weight.append((grad, t_x))
    d_x = _sum(of_x) if needs[0] else None
    d_weight = _sum_over_rows(of_weight) if needs[1] else None
    d_bias = t_grad.sum(2) if needs[2] and t_grad is not None else None
    T = count(t_x, t_weight, t_bias, t_grad)
    results = zip(needs, (d_x, d_weight, d_bias), (x, weight, bias), strict=True)
    return tuple(filled(d, like, T) if need else None for need, d, like in results)


def _in_every_row(bias: Tensor | None, x: Tensor) -> Tensor | None:
    """[..., E, O] -> [..., E, N, O], all rows in one place."""
    return None if bias is None else bias.unsqueeze(-2).expand(*bias.shape[:-1], x.shape[-2], -1)


def _sum(products: list[tuple[Tensor, Tensor]], start: Tensor | None = None) -> Any:
    """``start`` plus a b for every pair, leading axes broadcast: a fresh tensor, None of nothing."""
    if not products:
        return None if start is None else start.clone(memory_format=torch.contiguous_format)
    return (_sum_of_matrices if _are_matrices(products) else _sum_of_batches)(products, start)


def _sum_over_rows(pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """gᵀ x for every pair, added up."""
    if pairs and _are_matrices(pairs):
        product = weight_product([(_matrix(g), _matrix(x)) for g, x in pairs])
        if product is not None:
            return product.view(_leading_ones(pairs) + product.shape)
    return _sum([(g.mT, x) for g, x in pairs])


def _are_matrices(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    return all(t.shape[:-2].numel() == 1 for pair in pairs for t in pair)


def _matrix(t: Tensor) -> Tensor:
    return t.view(t.shape[-2:])


def _leading_ones(pairs: list[tuple[Tensor, Tensor]]) -> tuple[int, ...]:
    return (1,) * (max(t.dim() for t in pairs[0]) - 2)


def _sum_of_matrices(products: list[tuple[Tensor, Tensor]], start: Tensor | None) -> Tensor:
    matrices = [(_matrix(a), _matrix(b)) for a, b in products]
    total = torch.mm(*matrices[0]) if start is None else torch.addmm(_matrix(start), *matrices[0])
    for a, b in matrices[1:]:
        total.addmm_(a, b)
    return total.view(_leading_ones(products) + total.shape)


def _sum_of_batches(products: list[tuple[Tensor, Tensor]], start: Tensor | None) -> Tensor:
    """Of several tangents, or of several members under ``vmap``."""
    total = start
    for a, b in products:
        total = plus(total, torch.matmul(a, b))
    assert total is not None
    return total
