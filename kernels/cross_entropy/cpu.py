"""The four maps of cross-entropy on the CPU, in C++: a row at a time, threaded, vectorised.

Requirements: CPU tensors and the extension ``alternet._C``. Shapes and dtypes: as in ``reference.py``; what is not
contiguous is copied. Every map reads each of its tensors once from memory, and keeps no softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..missing import contiguous
from .reduction import reduced, spread

native.load()
_ops = torch.ops.alternet_native


def forward(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Returns loss [B], without a reduction [B, N], and lse [B, N]."""
    try:
        losses, lse = _ops.cross_entropy_forward(*contiguous(logits, target, index), label_smoothing, ignore_index)
    except RuntimeError as error:  # the only kind of error that the stable interface of C++ has
        message = str(error).splitlines()[0]
        if "target: class" not in message:
            raise
        raise IndexError(message[message.index("target: class") :]) from None  # before it: where in C++
    return reduced(losses, index, reduction, ignore_index), lse


def tangent(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    loss: Tensor,
    lse: Tensor,
    t_logits: Tensor | None,
    t_target: Tensor | None,
    t_index: None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Returns the tangents of ``forward``'s results, [T, ...]."""
    tensors = contiguous(logits, target, index, lse, t_logits, t_target)
    t_losses, t_lse = _ops.cross_entropy_tangent(*tensors, label_smoothing, ignore_index)
    return reduced(t_losses, index, reduction, ignore_index), t_lse


def backward(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    loss: Tensor,
    lse: Tensor,
    grad: Tensor,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_logits, d_target and None; ``None`` where not needed."""
    grads = spread(grad, index, logits.shape[1], reduction, ignore_index)
    tensors = contiguous(logits, target, index, lse, grads)
    return *_ops.cross_entropy_backward(*tensors, label_smoothing, ignore_index, needs), None


def backward_tangent(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    loss: Tensor,
    lse: Tensor,
    grad: Tensor,
    t_logits: Tensor | None,
    t_target: Tensor | None,
    t_index: None,
    t_loss: Tensor | None,
    t_lse: Tensor | None,
    t_grad: Tensor | None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    grads, t_grads = (spread(g, index, logits.shape[1], reduction, ignore_index) for g in (grad, t_grad))
    tensors = contiguous(logits, target, index, lse, grads, t_logits, t_target, t_lse, t_grads)
    return *_ops.cross_entropy_backward_tangent(*tensors, label_smoothing, ignore_index, needs), None
