"""Attention as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..derivatives import Operator, Signature


def _fake(query: Tensor, key: Tensor, value: Tensor, *_: Tensor | None, **__: Any) -> tuple[Tensor, Tensor]:
    """out [B, H, N, Dv] in query's dtype and lse [B, H, N] in the arithmetic dtype."""
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return (
        query.new_empty((*query.shape[:-1], value.shape[-1])),
        query.new_empty(query.shape[:-1], dtype=lse_dtype),
    )


def _batch_shapes(shapes: Sequence[torch.Size | None]) -> Sequence[torch.Size | None]:
    """Only bias and table may lack the batch: [1, h, n, m] -> [B, h, n, m]."""
    query, key, value, *added = shapes
    assert query is not None
    return query, key, value, *(None if shape is None else torch.Size((query[0], *shape[1:])) for shape in added)


def _flops(call: flops.Call) -> int:
    """All pairs of queries and keys, as PyTorch counts its own attention."""
    (batch, heads, queries, width), (*_, keys, _), (*_, value_width) = call.x[:3]
    pairs = 2 * batch * heads * queries * keys
    return flops.of_attention(call, pairs * width, pairs * value_width)


attention_operator = Operator(
    Signature(
        name="attention",
        inputs=("query", "key", "value", "bias", "table"),
        optional=2,
        residuals=("lse",),
        parameters=(("float", "scale"), ("bool", "is_causal"), ("int[]", "grid"), ("int[]", "kernel_size")),
        fake=_fake,
        batch_shapes=_batch_shapes,
        flops=_flops,
    )
)
