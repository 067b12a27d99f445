"""Batch normalisation as an operator of the library: its signature; arguments are checked in ``__init__``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..derivatives import Operator, Signature


def _fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [G, B, C, S] in x's dtype, mean and var [G, C] in the arithmetic dtype."""
    shape = (x.shape[0], x.shape[2])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """All but x may lack the groups: [1, 1, C, 1] -> [G, 1, C, 1]."""
    x, *others = shapes
    assert x is not None
    return x, *(None if s is None else torch.Size((x[0], *s[1:])) for s in others)


batch_norm_operator = Operator(
    Signature(
        name="batch_norm",
        inputs=("x", "weight", "bias", "mean", "var"),
        optional=4,
        residuals=("batch_mean", "batch_var"),
        parameters=(("float", "eps"), ("str", "activation")),
        fake=_fake,
        batch_shapes=_batch_shapes,
        needs_output=False,
        constants=("mean", "var"),
    )
)
