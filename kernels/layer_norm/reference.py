"""The specification: the four maps of layer normalisation in plain PyTorch.

x̂ = (x - mean) rstd over the last axis, y = weight x̂ + bias (README.md of this folder derives the other three maps).
x [B, N, D]; weight and bias [B | 1, 1, D] or None. float16 and bfloat16 are computed in float32.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..missing import count, filled, plus, summed_to, times, widen


def forward(x, weight, bias, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y [B, N, D], mean and rstd [B, N]."""
    wide, w, b = widen(x, weight, bias)
    mean = wide.mean(-1, keepdim=True)
    centred = wide - mean
    rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    y = plus(_scaled(centred * rstd, w), b)
    return y.to(x.dtype), mean[..., 0], rstd[..., 0]


def tangent(x, weight, bias, y, mean, rstd, t_x, t_weight, t_bias, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns t_y [T, B, N, D], t_mean and t_rstd [T, B, N]."""
    wide, w, t_wide, t_w, t_b = widen(x, weight, t_x, t_weight, t_bias)
    normal = _normal(wide, mean, rstd)
    T = count(t_x, t_weight, t_bias)
    t_mean = t_rstd = rstd.new_zeros((T, *rstd.shape))
    t_normal = None
    if t_wide is not None:
        t_mean = t_wide.mean(-1)
        t_rstd = -(rstd**2) * (normal * t_wide).mean(-1)
        t_normal = _t_normal(normal, rstd, t_wide, t_mean, t_rstd)
    t_y = plus(plus(_scaled(t_normal, w), times(normal, t_w)), t_b)
    return filled(t_y, wide, T).expand(T, *x.shape).to(x.dtype).contiguous(), t_mean, t_rstd


def backward(x, weight, bias, y, mean, rstd, grad, *, eps: float, needs):
    """Returns d_x, d_weight, d_bias in the shapes of the inputs; ``None`` where not needed."""
    wide, w, g = widen(x, weight, grad)
    normal = _normal(wide, mean, rstd)
    d_x = rstd[..., None] * _centred(_scaled(g, w), normal) if needs[0] else None
    d_weight = summed_to(g * normal, *weight.shape) if needs[1] else None
    d_bias = summed_to(g, *bias.shape) if needs[2] else None
    return tuple(None if d is None else d.to(x.dtype) for d in (d_x, d_weight, d_bias))


def backward_tangent(
    x, weight, bias, y, mean, rstd, grad, t_x, t_weight, t_bias, t_y, t_mean, t_rstd, t_grad, *, eps: float, needs
):
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    wide, w, g, t_wide, t_w, t_g = widen(x, weight, grad, t_x, t_weight, t_grad)
    T = count(t_x, t_weight, t_bias, t_grad)
    normal = _normal(wide, mean, rstd)
    t_normal = None if t_wide is None else _t_normal(normal, rstd, t_wide, t_mean, t_rstd)
    d_x = d_weight = d_bias = None
    if needs[0]:
        a = _scaled(g, w)
        t_a = plus(times(g, t_w), _scaled(t_g, w))
        if t_a is not None:
            d_x = rstd[..., None] * _centred(t_a, normal)
        if t_normal is not None:
            a_normal, a_t_normal = (a * normal).mean(-1, keepdim=True), (a * t_normal).mean(-1, keepdim=True)
            moved = -t_normal * a_normal - normal * a_t_normal
            d_x = plus(d_x, rstd[..., None] * moved + t_rstd[..., None] * _centred(a, normal))
        d_x = filled(d_x, wide, T)
    if needs[1]:
        d_weight = summed_to(filled(plus(times(t_g, normal), times(g, t_normal)), wide, T), T, *weight.shape)
    if needs[2]:
        d_bias = summed_to(filled(t_g, wide, T), T, *bias.shape)
    return tuple(None if d is None else d.to(x.dtype) for d in (d_x, d_weight, d_bias))


def _normal(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """x̂."""
    return (x - mean[..., None]) * rstd[..., None]


def _t_normal(normal: Tensor, rstd: Tensor, t_x: Tensor, t_mean: Tensor, t_rstd: Tensor) -> Tensor:
    """x̂' = rstd (x' - mean') + x̂ rstd' / rstd."""
    return rstd[..., None] * (t_x - t_mean[..., None]) + normal * (t_rstd / rstd)[..., None]


def _centred(a: Tensor, normal: Tensor) -> Tensor:
    """a - mean(a) - x̂ mean(a x̂): what of a is orthogonal to 1 and to x̂."""
    return a - a.mean(-1, keepdim=True) - normal * (a * normal).mean(-1, keepdim=True)


def _scaled(a: Tensor | None, weight: Tensor | None) -> Any:
    """weight a, without a weight a."""
    return a if weight is None or a is None else a * weight
