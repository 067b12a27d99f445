"""What the operators' cases are drawn by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def normals(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Callable[..., Tensor]:
    """``normal(*shape)``: standard normal numbers in ``dtype``, which are the same in any but for rounding."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return normal
