"""Convolution as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..derivatives import Operator, Signature
from . import reference
from .products import result_shape


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, **geometry: Any) -> tuple[Tensor]:
    return (x.new_empty(result_shape(x.shape, weight.shape, **geometry)),)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """As they are: every input has the members along its axis 0."""
    return shapes


def _flops(call: flops.Call) -> int:
    """The products of W and x, of W and g, and of x and g that a map makes."""
    x, weight = call.x[:2]
    each = 2 * math.prod(result_shape(x, weight, **call.parameters)) * math.prod(weight[1:])
    if call.map == "forward":
        return each
    if call.map == "backward":
        return each * (call.needs[0] + call.needs[1])
    t_x, t_weight = call.t_x[:2]
    if call.map == "tangent":
        return each * call.tangents * (t_x + t_weight)
    return each * call.tangents * (call.needs[0] * (call.t_grad + t_weight) + call.needs[1] * (call.t_grad + t_x))


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
        flops=_flops,
    ),
    modules=lambda backend: reference,  # which runs everywhere: reference.py says why
)
