"""A linear layer as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from .. import flops
from ..derivatives import Operator, Signature
from . import in_place, reference


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
    return (x.new_empty((*x.shape[:2], weight.shape[1])),)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """As they are: every input has the members along its axis 0."""
    return shapes


def _flops(call: flops.Call) -> int:
    """The products of x and W, of g and W, and of g and x that a map makes."""
    x, weight = call.x[:2]
    each = 2 * math.prod(x) * weight[1]
    if call.map == "forward":
        return each
    if call.map == "backward":
        return each * (call.needs[0] + call.needs[1])
    t_x, t_weight = call.t_x[:2]
    if call.map == "tangent":
        return each * call.tangents * (t_x + t_weight)
    return each * call.tangents * (call.needs[0] * (call.t_grad + t_weight) + call.needs[1] * (call.t_grad + t_x))


def _module(backend: str) -> ModuleType:
    return reference if backend == "reference" else in_place


linear_operator = Operator(
    Signature(
        name="linear",
        inputs=("x", "weight", "bias"),
        optional=1,
        residuals=(),
        parameters=(),
        fake=_fake,
        batch_shapes=_batch_shapes,
        needs_output=False,
        flops=_flops,
    ),
    modules=_module,
)
