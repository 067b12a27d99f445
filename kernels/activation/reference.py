"""The specification: the four maps of activations in plain PyTorch.

y = φ(u), u = x + bias, with φ by ``kind``; x [B, N, D], bias [B | 1, 1, D], or x of any shape (but for []) and None.
float16 and bfloat16 are computed in float32. README.md of this folder has φ, φ' and φ''.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..missing import count, filled, plus, summed_to, times, widen

_TANH_SLOPE, _TANH_CUBE = math.sqrt(2 / math.pi), 0.044715


def forward(x, bias, *, kind: str) -> tuple[Tensor]:
    """Returns y in x's shape."""
    return (_value(plus(*widen(x, bias)), kind).to(x.dtype),)


def tangent(x, bias, y, t_x, t_bias, *, kind: str) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    u, t_u = plus(*widen(x, bias)), plus(*widen(t_x, t_bias))
    return ((_slope(u, kind) * t_u).to(x.dtype),)


def backward(x, bias, y, grad, *, kind: str, needs):
    """Returns d_x and d_bias in the shapes of the inputs; ``None`` where not needed."""
    u, (g,) = plus(*widen(x, bias)), widen(grad)
    d = _slope(u, kind) * g
    return d.to(x.dtype) if needs[0] else None, summed_to(d, *bias.shape).to(x.dtype) if needs[1] else None


def backward_tangent(x, bias, y, grad, t_x, t_bias, t_y, t_grad, *, kind: str, needs):
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    u, t_u, (g, t_g) = plus(*widen(x, bias)), plus(*widen(t_x, t_bias)), widen(grad, t_grad)
    T = count(t_x, t_bias, t_grad)
    bent = None if t_u is None else _bend(u, kind) * t_u * g
    d = filled(plus(bent, times(t_g, _slope(u, kind))), u, T)
    return d.to(x.dtype) if needs[0] else None, summed_to(d, T, *bias.shape).to(x.dtype) if needs[1] else None


def _value(u: Tensor, kind: str) -> Tensor:
    if kind == "relu":
        return u.relu()
    return torch.nn.functional.gelu(u, approximate="tanh" if kind == "gelu_tanh" else "none")


def _slope(u: Tensor, kind: str) -> Tensor:
    """φ'."""
    if kind == "relu":
        return (~(u <= 0)).to(u.dtype)  # 1 at NaN, as PyTorch has it
    u = _bounded(u)
    if kind == "gelu":
        return _cdf(u) + u * _pdf(u)
    s, s1, _ = _sigmoid(u)
    return s + u * s1


def _bend(u: Tensor, kind: str) -> Tensor:
    """φ''."""
    if kind == "relu":
        return torch.zeros_like(u)
    u = _bounded(u)
    if kind == "gelu":
        return (2 - u * u) * _pdf(u)
    _, s1, s2 = _sigmoid(u)
    return 2 * s1 + u * s2


def _bounded(u: Tensor) -> Tensor:
    """Up to where its exponential vanishes: derivatives are finite beyond."""
    return u.clamp(-40, 40)


def _cdf(u: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-u / math.sqrt(2))


def _pdf(u: Tensor) -> Tensor:
    return torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)


def _sigmoid(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s = (1 + tanh v) / 2, v = sqrt(2/π) (u + 0.044715 u³), and its first two derivatives by u."""
    v1, v2 = 2 * _TANH_SLOPE * (1 + 3 * _TANH_CUBE * u * u), 12 * _TANH_SLOPE * _TANH_CUBE * u  # (2v)', (2v)''
    v = 2 * _TANH_SLOPE * (u + _TANH_CUBE * u**3)
    s, rest = torch.sigmoid(v), torch.sigmoid(-v)
    return s, s * rest * v1, s * rest * (v2 + v1 * v1 * (rest - s))
