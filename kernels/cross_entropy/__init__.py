"""Softmax cross-entropy with classes or probabilities as targets, and every derivative of it.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, ``README.md`` the derivation.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..checks import autocasts, check_floating, check_like, in_dtype, integer, is_16_bit, number
from .operator import cross_entropy_operator


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["none", "mean", "sum"] = "mean",
    ignore_index: int = -100,
    weight: Tensor | None = None,
) -> Tensor:
    """-Σ q log softmax(logits) over classes, q the smoothed target; differentiable to any order in logits and target.

    As ``torch.nn.functional.cross_entropy`` of logits with two axes.

    Args:
        logits: [N, C], floating point.
        target: int64 [N], the class of each row; or [N, C] in logits' dtype, probabilities of the classes.
        label_smoothing: ε of q = (1 - ε) target + ε / C, from 0 to 1.
        reduction: "none": the loss [N] of every row; "sum"; "mean": divided by the number of rows, or with classes by
            the sum of the weights of those that are not ignored.
        ignore_index: rows of this class have loss 0. With probabilities it has no meaning.
        weight: [C] in logits' dtype, multiplies q by class; with classes it is a constant.

    Returns:
        The loss in logits' dtype, float32 under autocast. 16-bit logits are computed in float32.

    Raises:
        TypeError: logits is not a floating-point tensor; target is neither int64 nor of logits' dtype; a number is
            none.
        ValueError: shapes or devices do not fit, ``reduction`` is another word, ``label_smoothing`` is out of range.
        IndexError: a class is out of range (on a CPU; the kernels on a GPU do not look).
        NotImplementedError: a derivative with respect to ``weight`` is asked for with classes as targets.

    Source: Szegedy et al. 2016 for the smoothing; ``README.md`` derives the second derivatives.
    """
    if isinstance(logits, Tensor) and is_16_bit(logits) and autocasts(logits.device):
        logits, target, weight = logits.float(), _as_float32(target), _as_float32(weight)
    smoothing, ignore_index = number("label_smoothing", label_smoothing), integer("ignore_index", ignore_index)
    _check(logits, target, smoothing, reduction, weight)
    if target.is_floating_point():
        if weight is not None:  # q need not be normalised
            target, smoothing = weight * ((1 - smoothing) * target + smoothing / logits.shape[1]), 0.0
        return in_dtype(_losses(logits, target, None, smoothing, -1, reduction), logits.dtype)
    if weight is None:
        return in_dtype(_losses(logits, None, target, smoothing, ignore_index, reduction), logits.dtype)
    losses, divisor = _of_weighted_classes(logits, target, smoothing, weight, ignore_index)
    if reduction == "none":
        return losses.to(logits.dtype)
    total = losses.sum()
    return (total / divisor if reduction == "mean" else total).to(logits.dtype)


def _losses(
    logits: Tensor, target: Tensor | None, index: Tensor | None, smoothing: float, ignore_index: int, reduction: str
) -> Tensor:
    """[N] or, reduced, [] in the arithmetic dtype; the operator's batch is one."""
    given = (None if t is None else t[None] for t in (logits, target, index))
    return cross_entropy_operator(*given, smoothing, ignore_index, reduction).squeeze(0)


def _of_weighted_classes(
    logits: Tensor, target: Tensor, smoothing: float, weight: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The losses of rows, and what their mean divides by."""
    valid = target != ignore_index
    if weight.requires_grad:
        raise NotImplementedError("weight: has no derivative with classes as targets, as in PyTorch; detach it")
    if smoothing != 0.0:  # every class has a weight: in an ignored row 0, and 0 times infinity would be NaN
        logits = torch.where(valid[:, None], logits, 0.0)
    losses = _losses(logits, None, target, 0.0, ignore_index, "none")  # which looks whether classes are in range
    weights = torch.where(valid, weight[torch.where(valid, target, 0)], 0.0)
    losses = (1 - smoothing) * weights * losses
    if smoothing != 0.0:
        q = torch.where(valid[:, None], weight * (smoothing / logits.shape[1]), 0.0)
        losses = losses + _losses(logits, q, None, 0.0, -1, "none")
    return losses, weights.sum()


def _as_float32(tensor: Any) -> Any:
    return tensor.float() if is_16_bit(tensor) else tensor


def _check(logits: Tensor, target: Tensor, label_smoothing: float, reduction: str, weight: Tensor | None) -> None:
    check_floating("logits", logits)
    if logits.dim() != 2:
        raise ValueError(f"logits: shape {tuple(logits.shape)}, expected two axes [N, C]")
    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected a tensor, got {type(target).__name__}")
    if target.dtype not in (torch.int64, logits.dtype):
        raise TypeError(f"target: dtype {target.dtype}, expected int64 classes or logits' dtype {logits.dtype}")
    expected = logits.shape if target.is_floating_point() else logits.shape[:1]
    if target.shape != expected:
        raise ValueError(f"target: shape {tuple(target.shape)}, expected {tuple(expected)} with {target.dtype}")
    if target.device != logits.device:
        raise ValueError(f"target: is on {target.device}, expected logits' device {logits.device}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction: {reduction!r}, expected 'none', 'mean' or 'sum'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing: {label_smoothing}, expected 0 to 1")
    check_like("weight", weight, logits, (logits.shape[1],), "logits")
