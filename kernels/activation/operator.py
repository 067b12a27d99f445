"""Activations as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..derivatives import Operator, Signature


def _fake(x: Tensor, bias: Tensor | None, *, kind: str) -> tuple[Tensor]:
    return (x.new_empty(x.shape),)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """bias may lack the batch: [1, 1, D] -> [B, 1, D]."""
    x, bias = shapes
    assert x is not None
    return x, None if bias is None else torch.Size((x[0], *bias[1:]))


activation_operator = Operator(
    Signature(
        name="activation",
        inputs=("x", "bias"),
        optional=1,
        residuals=(),
        parameters=(("str", "kind"),),
        fake=_fake,
        batch_shapes=_batch_shapes,
        needs_output=False,
    )
)
