"""What the solvers ask of an operator: its size, its kind and its products."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class LinearOperator(Protocol):
    """A symmetric matrix that is known by its products, new tensors that the caller may change.

    It may have two things more: ``matmat(V)``, the products [n, m] with the columns of V: [n, m], which is then used
    for several vectors at once, and ``space``, a ``VectorSpace``, where its vectors are spread over processes.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __matmul__(self, vector: Tensor, /) -> Tensor: ...


def multiply(op: Any, rows: Tensor) -> Tensor:
    """The products [m, length] of ``op`` with the rows of rows: [m, length], as new contiguous rows without a graph."""
    if len(rows) > 1 and hasattr(op, "matmat"):
        return op.matmat(rows.t()).detach().t().contiguous()
    return (op @ rows[0]).detach()[None] if len(rows) == 1 else torch.stack([(op @ row).detach() for row in rows])


def check_operator(op: LinearOperator, *, least: int = 1, name: str = "op") -> None:
    """``op`` is square, of at least this size, and float32 or float64; TypeError or ValueError otherwise."""
    if not isinstance(getattr(op, "dtype", None), torch.dtype):
        raise TypeError(f"{name}: expected a tensor, or an operator with a torch dtype, got {type(op).__name__}")
    if len(op.shape) != 2 or op.shape[0] != op.shape[1] or op.shape[0] < least:
        raise ValueError(f"{name}: expected a square operator, got shape {tuple(op.shape)}")
    if op.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {op.dtype}")
