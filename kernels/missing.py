"""Arithmetic of reference maps with tensors that may be missing: a tangent that is ``None`` is zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def widen(*tensors: Tensor | None) -> list[Any]:
    """To the arithmetic dtype: float64 stays, everything narrower is computed in float32."""
    return [t if t is None or t.dtype == torch.float64 else t.float() for t in tensors]


def plus(a: Tensor | None, b: Tensor | None) -> Any:
    """a + b; ``None`` where both are."""
    return b if a is None else a if b is None else a + b


def times(a: Tensor | None, b: Tensor | None) -> Any:
    """a b; ``None`` where one is."""
    return None if a is None or b is None else a * b


def filled(a: Tensor | None, like: Tensor, count: int) -> Tensor:
    """a, or the zeros [count, *like.shape] that it stands for."""
    return like.new_zeros((count, *like.shape)) if a is None else a


def summed_to(a: Tensor, *shape: int) -> Tensor:
    """The sum over what a tensor of this shape broadcasts; never a itself, as maps return fresh tensors."""
    return a.sum_to_size(*shape).clone()


def count(*tangents: Tensor | None) -> int:
    """The number T of tangents."""
    return next(t.shape[0] for t in tangents if t is not None)


def contiguous(*tensors: Tensor | None) -> list[Any]:
    """The tensors where they lie contiguously, copies of the others."""
    return [None if t is None else t.contiguous() for t in tensors]
