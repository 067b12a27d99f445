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

native.load()
_ops = torch.ops.alternet_native


def forward(
    logits: Tensor, target: Tensor | None, index: Tensor | None, *, label_smoothing: float, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Returns loss and lse [B, N]."""
    return _ops.cross_entropy_forward(*contiguous(logits, target, index), label_smoothing, ignore_index)


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
) -> tuple[Tensor, Tensor]:
    """Returns t_loss and t_lse [T, B, N]."""
    tensors = contiguous(logits, target, index, lse, t_logits, t_target)
    return _ops.cross_entropy_tangent(*tensors, label_smoothing, ignore_index)


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
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_logits, d_target and None; ``None`` where not needed."""
    tensors = contiguous(logits, target, index, lse, grad)
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
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    tensors = contiguous(logits, target, index, lse, grad, t_logits, t_target, t_lse, t_grad)
    return *_ops.cross_entropy_backward_tangent(*tensors, label_smoothing, ignore_index, needs), None
