"""Cross-entropy as an operator of the library: its signature; the checks of the arguments are in ``__init__``."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import batching
from ..derivatives import Operator, Signature


def _fake(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """loss [B], without a reduction [B, N], and lse [B, N] in the arithmetic dtype."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    shape = logits.shape[: -1 if reduction == "none" else -2]
    return logits.new_empty(shape, dtype=dtype), logits.new_empty(logits.shape[:-1], dtype=dtype)


cross_entropy_operator = Operator(
    Signature(
        name="cross_entropy",
        inputs=("logits", "target", "index"),
        optional=2,
        residuals=("lse",),
        parameters=(("float", "label_smoothing"), ("int", "ignore_index"), ("str", "reduction")),
        fake=_fake,
        batch_shapes=batching.whole,
        constants=("index",),
        needs_output=False,
    )
)
