"""The specification: the four maps of batch normalisation and its activation in plain PyTorch.

y = act(weight x̂ + bias), x̂ = (x - mean) rstd by channel (README.md of this folder derives the other three maps).
x [G, B, C, S]: each of G groups has statistics of its own, over B and S; weight and bias [G | 1, 1, C, 1] or None. mean
and var of that shape are constant statistics; where they are None they are those of x. The residuals are the
statistics used, [G, C]. float16 and bfloat16 are computed in float32.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..missing import count, filled, plus, summed_to, times, widen

_OVER = (-3, -1)  # B and S


def forward(x, weight, bias, mean, var, *, eps: float, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y [G, B, C, S], batch_mean and batch_var [G, C]."""
    wide, w, b = widen(x, weight, bias)
    if mean is None:
        mean = wide.mean(_OVER, keepdim=True)
        var = (wide - mean).square().mean(_OVER, keepdim=True)
    y = plus(_scaled((wide - mean) * torch.rsqrt(var + eps), w), b)
    if activation == "relu":
        y = y.relu()
    statistics = (s.expand(x.shape[0], 1, x.shape[2], 1).reshape(x.shape[0], x.shape[2]).clone() for s in (mean, var))
    return y.to(x.dtype), *statistics


def tangent(
    x, weight, bias, mean, var, y, batch_mean, batch_var, t_x, t_weight, t_bias, t_mean, t_var,
    *, eps: float, activation: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns t_y [T, G, B, C, S] and the tangents of the statistics [T, G, C]."""
    wide, w, b, t_wide, t_w, t_b = widen(x, weight, bias, t_x, t_weight, t_bias)
    T, rstd = count(t_x, t_weight, t_bias), torch.rsqrt(batch_var + eps)
    normal = _normal(wide, batch_mean, rstd)
    d_mean = d_var = batch_var.new_zeros((T, *batch_var.shape))
    t_normal = None
    if t_wide is not None:
        if mean is None:
            d_mean = t_wide.mean(_OVER)
            d_var = 2 * (normal * t_wide).mean(_OVER) / rstd
        t_normal = _t_normal(normal, rstd, t_wide, d_mean, _t_rstd(rstd, d_var))
    t_y = filled(plus(plus(_scaled(t_normal, w), times(normal, t_w)), t_b), wide, T).expand(T, *x.shape)
    return _passed(t_y, normal, w, b, activation).to(x.dtype).contiguous(), d_mean, d_var.clone()


def backward(x, weight, bias, mean, var, y, batch_mean, batch_var, grad, *, eps: float, activation: str, needs):
    """Returns d_x, d_weight, d_bias, None, None in the shapes of the inputs; ``None`` where not needed."""
    wide, w, b, g = widen(x, weight, bias, grad)
    rstd = torch.rsqrt(batch_var + eps)
    normal = _normal(wide, batch_mean, rstd)
    h = _passed(g, normal, w, b, activation)
    d_x = d_weight = d_bias = None
    if needs[0]:
        d_x = _by_channel(rstd) * _scaled(_centred(h, normal, mean is None), w)
    if needs[1]:
        d_weight = summed_to(h * normal, *weight.shape)
    if needs[2]:
        d_bias = summed_to(h, *bias.shape)
    return *(None if d is None else d.to(x.dtype) for d in (d_x, d_weight, d_bias)), None, None


def backward_tangent(
    x, weight, bias, mean, var, y, batch_mean, batch_var, grad,
    t_x, t_weight, t_bias, t_mean, t_var, t_y, t_batch_mean, t_batch_var, t_grad,
    *, eps: float, activation: str, needs,
):  # fmt: skip
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    wide, w, b, g, t_wide, t_w, t_g = widen(x, weight, bias, grad, t_x, t_weight, t_grad)
    T, rstd = count(t_x, t_weight, t_bias, t_grad), torch.rsqrt(batch_var + eps)
    normal, t_rstd = _normal(wide, batch_mean, rstd), _t_rstd(rstd, t_batch_var)
    h = _passed(g, normal, w, b, activation)
    t_h = None if t_g is None else _passed(t_g, normal, w, b, activation)
    t_normal = None if t_wide is None else _t_normal(normal, rstd, t_wide, t_batch_mean, t_rstd)
    d_x = d_weight = d_bias = None
    if needs[0]:
        d_x = filled(_t_d_x(h, t_h, normal, t_normal, w, t_w, rstd, t_rstd, mean is None), wide, T)
    if needs[1]:
        moved = filled(plus(times(t_h, normal), times(t_normal, h)), wide, T)
        d_weight = summed_to(moved, T, *weight.shape)
    if needs[2]:
        d_bias = summed_to(filled(t_h, wide, T), T, *bias.shape)
    return *(None if d is None else d.to(x.dtype) for d in (d_x, d_weight, d_bias)), None, None


def _t_d_x(h, t_h, normal, t_normal, w, t_w, rstd, t_rstd, training: bool) -> Any:
    """The tangent of rstd weight c, c = h - mean(h) - x̂ mean(h x̂)."""
    c = _centred(h, normal, training)
    t_c = None if t_h is None else _centred(t_h, normal, training)
    if t_normal is not None and training:
        h_normal, h_t_normal = ((h * n).mean(_OVER, keepdim=True) for n in (normal, t_normal))
        t_c = plus(t_c, -t_normal * h_normal - normal * h_t_normal)
    result = plus(_scaled(t_c, w), times(t_w, c))
    result = None if result is None else _by_channel(rstd) * result
    return plus(result, None if t_normal is None else _by_channel(t_rstd) * _scaled(c, w))


def _by_channel(statistics: Tensor) -> Tensor:
    """[..., G, C] -> [..., G, 1, C, 1]."""
    return statistics[..., None, :, None]


def _t_rstd(rstd: Tensor, t_var: Tensor | None) -> Any:
    """rstd' of rstd = (var + eps)^(-1/2), if var moves."""
    return times(t_var, -0.5 * rstd**3)


def _normal(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """x̂."""
    return (x - _by_channel(mean)) * _by_channel(rstd)


def _t_normal(normal: Tensor, rstd: Tensor, t_x: Tensor, t_mean: Tensor, t_rstd: Tensor) -> Tensor:
    """x̂' = rstd (x' - mean') + x̂ rstd' / rstd."""
    return _by_channel(rstd) * (t_x - _by_channel(t_mean)) + normal * _by_channel(t_rstd / rstd)


def _centred(h: Tensor, normal: Tensor, training: bool) -> Tensor:
    """h - mean(h) - x̂ mean(h x̂); h itself where the statistics are constants."""
    if not training:
        return h
    return h - h.mean(_OVER, keepdim=True) - normal * (h * normal).mean(_OVER, keepdim=True)


def _passed(v: Tensor, normal: Tensor, w: Tensor | None, b: Tensor | None, activation: str) -> Tensor:
    """act'(y) v; where y is NaN, v, as PyTorch has it."""
    return v * ~(plus(_scaled(normal, w), b) <= 0) if activation == "relu" else v


def _scaled(a: Tensor | None, weight: Tensor | None) -> Any:
    """weight a, without a weight a."""
    return a if weight is None or a is None else a * weight
