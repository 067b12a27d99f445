"""The Triton backend: the four maps of cross-entropy, one kernel each, a row a program; no softmax is kept.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. float16, bfloat16 and float32, computed in float32. Shapes and dtypes: as in ``reference.py``; what
is not contiguous is copied. Classes out of range are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..missing import contiguous, count
from ..triton_rows import Config, launch, new, padded
from .reduction import reduced, spread


def _launch(kernel: Any, logits: Tensor, T: int, smoothing: float, ignore_index: int, **tensors: Tensor | None) -> None:
    """One program for each row of each of T tangents."""
    C = logits.shape[-1]
    block = min(1024, padded(C))
    config = Config(1, block, 4 if block > 256 else 1, 1)
    rows = logits.shape[0] * logits.shape[1]
    arguments: dict[str, Any] = {f"{name}_ptr": tensor for name, tensor in tensors.items()}
    if any(name.startswith("t_") for name in tensors):
        arguments["rows"] = rows
    arguments |= {"C": C, "kept": 1 - smoothing, "spread": smoothing / max(C, 1), "ignore_index": ignore_index}
    launch(kernel, T * rows, config, logits.device, logits_ptr=logits, **arguments, BLOCK_C=block)


def forward(
    logits: Tensor,
    target: Tensor | None,
    index: Tensor | None,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Returns loss [B], without a reduction [B, N], and lse [B, N] (float32)."""
    from .triton_kernels import cross_entropy_forward_kernel as kernel

    logits, target, index = contiguous(logits, target, index)
    loss, lse = new(logits, *logits.shape[:2]), new(logits, *logits.shape[:2])
    _launch(kernel, logits, 1, label_smoothing, ignore_index, target=target, index=index, loss=loss, lse=lse)
    return reduced(loss, index, reduction, ignore_index), lse


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
    """Returns the tangents of ``forward``'s results, [T, ...] (float32)."""
    from .triton_kernels import cross_entropy_tangent_kernel as kernel

    T = count(t_logits, t_target)
    logits, target, index, lse = contiguous(logits, target, index, lse)
    t_logits, t_target = contiguous(t_logits, t_target)
    t_loss, t_lse = new(logits, T, *logits.shape[:2]), new(logits, T, *logits.shape[:2])
    _launch(
        kernel, logits, T, label_smoothing, ignore_index,
        target=target, index=index, lse=lse, t_logits=t_logits, t_target=t_target, t_loss=t_loss, t_lse=t_lse,
    )  # fmt: skip
    return reduced(t_loss, index, reduction, ignore_index), t_lse


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
    from .triton_kernels import cross_entropy_backward_kernel as kernel

    grad = spread(grad, index, logits.shape[1], reduction, ignore_index)
    logits, target, index, lse, grad = contiguous(logits, target, index, lse, grad)
    d_logits, d_target = (new(logits, *logits.shape, dtype=logits.dtype) if need else None for need in needs[:2])
    _launch(
        kernel, logits, 1, label_smoothing, ignore_index,
        target=target, index=index, lse=lse, grad=grad, d_logits=d_logits, d_target=d_target,
    )  # fmt: skip
    return d_logits, d_target, None


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
    from .triton_kernels import cross_entropy_backward_tangent_kernel as kernel

    T = count(t_logits, t_target, t_grad)
    grad, t_grad = (spread(g, index, logits.shape[1], reduction, ignore_index) for g in (grad, t_grad))
    logits, target, index, lse, grad = contiguous(logits, target, index, lse, grad)
    t_logits, t_target, t_lse, t_grad = contiguous(t_logits, t_target, t_lse, t_grad)
    shape = (T, *logits.shape)
    t_d_logits, t_d_target = (new(logits, *shape, dtype=logits.dtype) if need else None for need in needs[:2])
    _launch(
        kernel, logits, T, label_smoothing, ignore_index,
        target=target, index=index, lse=lse, grad=grad,
        t_logits=t_logits, t_target=t_target, t_lse=t_lse, t_grad=t_grad,
        t_d_logits=t_d_logits, t_d_target=t_d_target,
    )  # fmt: skip
    return t_d_logits, t_d_target, None
