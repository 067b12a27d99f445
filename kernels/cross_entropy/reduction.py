"""Losses of rows to one number, and its gradient back to the rows: a part of every map, in plain PyTorch.

Inside of the operator these two cost two small operations a map. Outside, every transform would see each of them, and
together they would take longer than the losses.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def reduced(losses: Tensor, index: Tensor | None, reduction: str, ignore_index: int) -> Tensor:
    """[..., B, N] -> [..., B]; unchanged where ``reduction`` is "none"."""
    if reduction == "none":
        return losses
    total = losses.sum(-1)
    return total if reduction == "sum" else total / _divisor(index, losses.shape[-1], ignore_index)


def spread(grad: Any, index: Tensor | None, rows: int, reduction: str, ignore_index: int) -> Any:
    """The transpose of ``reduced``: [..., B] -> [..., B, N]; ``None`` stays."""
    if grad is None or reduction == "none":
        return grad
    if reduction == "mean":
        divisor = _divisor(index, rows, ignore_index)
        grad = grad / (divisor if index is None else divisor.clamp(min=1))  # where no row counts gradients are 0
    return grad[..., None].expand(*grad.shape, rows)


def _divisor(index: Tensor | None, rows: int, ignore_index: int) -> Any:
    """The number of rows that count."""
    return rows if index is None else (index != ignore_index).sum(-1)
