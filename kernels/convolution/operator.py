"""Convolution as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .. import batching, flops
from ..derivatives import Operator, Signature
from . import reference
from .products import result_shape


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, **geometry: Any) -> tuple[Tensor]:
    return (x.new_empty(result_shape(x.shape, weight.shape, **geometry)),)


def _flops(call: flops.Call) -> int:
    x, weight = call.x[:2]
    each = 2 * math.prod(result_shape(x, weight, **call.parameters)) * math.prod(weight[1:])
    return flops.of_layer(call, each)


convolution_operator = Operator(
    Signature(
        name="convolution",
        inputs=("x", "weight", "bias"),
        optional=1,
        residuals=(),
        parameters=(("int", "out_channels"), ("int[]", "stride"), ("int[]", "padding"), ("int[]", "dilation")),
        fake=_fake,
        batch_shapes=batching.whole,  # every input has the members along its axis 0
        needs_output=False,
        flops=_flops,
    ),
    modules=lambda backend: reference,  # which runs everywhere: reference.py says why
)
