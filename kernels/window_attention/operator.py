"""Window attention as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..derivatives import Operator, Signature
from .partition import Partition


def _fake(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor | None, *, channels_last: bool, **_: Any
) -> tuple[Tensor]:
    """out: value's shape, which has query's pixels."""
    return (query.new_empty(value.shape),)


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """Only the table may lack the batch: [1, h, ...] -> [B, h, ...]."""
    query, key, value, table = shapes
    assert query is not None
    return query, key, value, None if table is None else torch.Size((query[0], *table[1:]))


def _flops(call: flops.Call) -> int:
    """All pairs of tokens of whole windows, also where these reach beyond the map."""
    window_size, shift, channels_last = (call.parameters[name] for name in ("window_size", "shift", "channels_last"))
    order = (0, 3, 4, 1, 2) if channels_last else (0, 1, 2, 3, 4)
    batch, heads, width, height, across = (call.x[0][axis] for axis in order)
    windows = math.prod(Partition(height, across, window_size, shift).counts)
    pairs = 2 * batch * heads * windows * math.prod(window_size) ** 2
    return flops.of_attention(call, pairs * width, pairs * call.x[2][order[2]])


window_attention_operator = Operator(
    Signature(
        name="window_attention",
        inputs=("query", "key", "value", "table"),
        optional=1,
        residuals=(),
        parameters=(
            ("int[]", "window_size"),
            ("int[]", "shift"),
            ("float", "scale"),
            ("bool", "channels_last"),
        ),
        fake=_fake,
        batch_shapes=_batch_shapes,
        flops=_flops,
    )
)
