"""The specification: the four maps of cross-entropy in plain PyTorch.

loss = Σ q (lse - z) over the classes of a row of logits z, q = (1 - ε) target + ε / C with the label smoothing ε
(README.md of this folder derives the other three maps). logits [B, N, C] and either target [B, N, C], any weights of
the classes, or index [B, N], one class each; rows whose index is ``ignore_index`` have loss and derivatives 0. The
reduction over rows is "none", "sum" or "mean", over those that are not ignored. loss [B] (with "none" [B, N]) and lse
[B, N] are in the arithmetic dtype: float32 for float16 and bfloat16.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..missing import count, filled, plus, times, widen
from .reduction import reduced, spread


def forward(
    logits, target, index, *, label_smoothing: float, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Returns loss [B], without a reduction [B, N], and lse [B, N]."""
    z, t = widen(logits, target)
    lse = torch.logsumexp(z, -1)
    losses = _expectation(lse[..., None] - z, t, index, label_smoothing, ignore_index)
    return reduced(losses, index, reduction, ignore_index), lse


def tangent(
    logits,
    target,
    index,
    loss,
    lse,
    t_logits,
    t_target,
    t_index,
    *,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Returns the tangents of ``forward``'s results, [T, ...]."""
    z, t, t_z, t_t = widen(logits, target, t_logits, t_target)
    T = count(t_logits, t_target)
    t_loss, t_lse = None, lse.new_zeros((T, *lse.shape))
    if t_z is not None:
        t_lse = (torch.exp(z - lse[..., None]) * t_z).sum(-1)
        t_loss = _expectation(t_lse[..., None] - t_z, t, index, label_smoothing, ignore_index)
    if t_t is not None:
        t_loss = plus(t_loss, (1 - label_smoothing) * (t_t * (lse[..., None] - z)).sum(-1))
    return reduced(filled(t_loss, lse, T), index, reduction, ignore_index), t_lse


def backward(
    logits, target, index, loss, lse, grad, *, label_smoothing: float, ignore_index: int, reduction: str, needs
):
    """Returns d_logits, d_target and None; ``None`` where not needed."""
    z, t = widen(logits, target)
    q = _weights(z, t, index, label_smoothing, ignore_index)
    p = torch.exp(z - lse[..., None])
    g = spread(grad, index, z.shape[-2], reduction, ignore_index)[..., None]
    d_logits = (g * (q.sum(-1, keepdim=True) * p - q)).to(logits.dtype) if needs[0] else None
    d_target = ((1 - label_smoothing) * g * (lse[..., None] - z)).to(logits.dtype) if needs[1] else None
    return d_logits, d_target, None


def backward_tangent(
    logits, target, index, loss, lse, grad, t_logits, t_target, t_index, t_loss, t_lse, t_grad,
    *, label_smoothing: float, ignore_index: int, reduction: str, needs,
):  # fmt: skip
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    z, t, t_z, t_t = widen(logits, target, t_logits, t_target)
    T = count(t_logits, t_target, t_grad)
    kept = 1 - label_smoothing
    q = _weights(z, t, index, label_smoothing, ignore_index)
    total = q.sum(-1, keepdim=True)
    p = torch.exp(z - lse[..., None])
    g, t_g = (spread(a, index, z.shape[-2], reduction, ignore_index) for a in (grad, t_grad))
    g, t_g = g[..., None], None if t_g is None else t_g[..., None]
    slack = None if t_z is None else t_lse[..., None] - t_z  # (lse - z)'
    d_logits = d_target = None
    if needs[0]:
        d_logits = times(t_g, total * p - q)
        if slack is not None:
            d_logits = plus(d_logits, -g * total * p * slack)
        if t_t is not None:
            d_logits = plus(d_logits, g * kept * (t_t.sum(-1, keepdim=True) * p - t_t))
        d_logits = filled(d_logits, z, T).to(logits.dtype)
    if needs[1]:
        d_target = plus(times(t_g, lse[..., None] - z), times(slack, g))
        d_target = (kept * filled(d_target, z, T)).to(logits.dtype)
    return d_logits, d_target, None


def _expectation(v: Tensor, target: Tensor | None, index: Tensor | None, smoothing: float, ignore_index: int) -> Tensor:
    """Σ q v over classes; v [..., B, N, C]. An index leaves classes of weight 0 out, whose v may be infinite."""
    if index is None:
        assert target is not None
        return (((1 - smoothing) * target + smoothing / v.shape[-1]) * v).sum(-1)
    valid = index != ignore_index
    at = torch.where(valid, index, 0)[..., None].expand(*v.shape[:-1], 1)
    result = (1 - smoothing) * _gathered(v, at)
    if smoothing:
        result = result + smoothing * v.mean(-1)
    return torch.where(valid, result, 0.0)


def _gathered(v: Tensor, at: Tensor) -> Tensor:
    """v at the classes.

    Raises:
        IndexError: a class is out of range (on a CPU).
    """
    try:
        return v.gather(-1, at)[..., 0]
    except RuntimeError as error:
        if "out of bounds" in str(error):
            raise IndexError(f"target: a class is out of range: {error}") from None
        raise


def _weights(z: Tensor, target: Tensor | None, index: Tensor | None, smoothing: float, ignore_index: int) -> Tensor:
    """q [B, N, C]."""
    if index is None:
        assert target is not None
        return (1 - smoothing) * target + smoothing / z.shape[-1]
    at_index = (index[..., None] == torch.arange(z.shape[-1], device=z.device)).to(z.dtype)
    return ((1 - smoothing) * at_index + smoothing / z.shape[-1]) * (index != ignore_index)[..., None].to(z.dtype)
