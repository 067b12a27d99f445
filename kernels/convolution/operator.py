"""Convolution as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..derivatives import Operator, Signature
from . import reference
from .products import result_shape


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, **geometry: Any) -> tuple[Tensor]:
    return (x.new_empty(result_shape(x, weight, **geometry)),)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """As they are: every input has the members along its axis 0."""
    return shapes


convolution_operator = Operator(
    Signature(
        name="convolution",
        inputs=("x", "weight", "bias"),
        optional=1,
        residuals=(),
        parameters=(("int", "out_channels"), ("int[]", "stride"), ("int[]", "padding"), ("int[]", "dilation")),
        fake=_fake,
        batch_shapes=_batch_shapes,
        needs_output=False,
    ),
    modules=lambda backend: reference,  # which runs everywhere: reference.py says why
)
