"""Inputs and the plain formula that every backend and every derivative of cross-entropy is tested on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operator import cross_entropy_operator as operator  # noqa: F401 - what the tests find here


def eager(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """Cross-entropy by PyTorch's own operations, differentiated by PyTorch: the oracle, no part of any backend."""
    if index is not None:
        target = (index[..., None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
    assert target is not None
    q = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    loss = -(q * logits.log_softmax(-1)).sum(-1)
    counts = torch.ones_like(loss) if index is None else (index != ignore_index).to(loss.dtype)
    if reduction == "none":
        return loss * counts
    total = (loss * counts).sum(-1)
    return total / counts.sum(-1) if reduction == "mean" else total


def _parameters(label_smoothing: float, reduction: str) -> dict[str, Any]:
    return {"label_smoothing": label_smoothing, "ignore_index": -1, "reduction": reduction}


def inputs(
    batch: int, rows: int, width: int, soft: bool = False, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """logits and either soft targets, which need not be normalised, or indices, of which some are -1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, rows, width, generator=generator, dtype=torch.float64)
    if soft:
        target = torch.rand(batch, rows, width, generator=generator, dtype=torch.float64)
        return logits.to(dtype), (2 * target / max(1, width)).to(dtype), None
    return logits.to(dtype), None, torch.randint(-1, width, (batch, rows), generator=generator)


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "index": (inputs(2, 3, 4), _parameters(0.0, "none")),
    "soft, smoothed, summed": (inputs(2, 3, 4, True), _parameters(0.2, "sum")),
    "index, smoothed, mean": (inputs(2, 3, 5, seed=3), _parameters(0.1, "mean")),
}
