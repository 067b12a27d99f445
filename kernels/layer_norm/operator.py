"""Layer normalisation as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..derivatives import Operator, Signature


def _fake(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, N, D] in x's dtype, mean and rstd [B, N] in the arithmetic dtype."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=dtype), x.new_empty(x.shape[:-1], dtype=dtype)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """weight and bias may lack the batch: [1, 1, D] -> [B, 1, D]."""
    x, *others = shapes
    assert x is not None
    return x, *(None if s is None else torch.Size((x[0], *s[1:])) for s in others)


layer_norm_operator = Operator(
    Signature(
        name="layer_norm",
        inputs=("x", "weight", "bias"),
        optional=2,
        residuals=("mean", "rstd"),
        parameters=(("float", "eps"),),
        fake=_fake,
        batch_shapes=_batch_shapes,
        needs_output=False,
    )
)
