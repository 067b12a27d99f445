"""A linear layer as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import math
from types import ModuleType

from torch import Tensor

from .. import batching, flops
from ..derivatives import Operator, Signature
from . import in_place, reference


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor]:
    return (x.new_empty((*x.shape[:2], weight.shape[1])),)


def _flops(call: flops.Call) -> int:
    x, weight = call.x[:2]
    return flops.of_layer(call, 2 * math.prod(x) * weight[1])


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
        batch_shapes=batching.whole,  # every input has the members along its axis 0
        needs_output=False,
        flops=_flops,
    ),
    modules=_module,
)
