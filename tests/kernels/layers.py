"""Inputs and derivatives of a layer, the same for ours and PyTorch's."""

from __future__ import annotations

import torch


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def product(f, x: list[torch.Tensor]) -> list[torch.Tensor]:
    """f, its gradient and a Hessian-vector product, by double backward."""
    leaves = [t.clone().requires_grad_() for t in x]
    y = f(*leaves)
    first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(first, leaves, [normal(*t.shape, seed=1).to(t.dtype) for t in leaves])
    return [y, *first, *second]
