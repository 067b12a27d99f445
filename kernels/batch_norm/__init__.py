"""Batch normalisation with the activation that follows, and every derivative of both.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, ``README.md`` the derivation.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import backends
from ..checks import check_floating, check_like, finite, float32_where_mixed, number
from ..dispatcher import outside_transforms, plain_value, reshaped
from .operator import batch_norm_operator


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Literal["relu"] | None = None,
) -> Tensor:
    """act((x - mean) / sqrt(var + eps) · weight + bias) by channel, differentiable to any order in x, weight and bias.

    As ``torch.nn.functional.batch_norm`` followed by the activation. In training mean and var are those of the batch,
    and their derivatives are part of every derivative; otherwise they are the running statistics, which are constants.

    Args:
        x: [B, C, ...], floating point.
        running_mean: [C], updated in place in training, where it may be None; outside of all derivatives.
        running_var: [C], likewise, with the unbiased variance.
        weight: [C] in x's dtype, or in float32 where that has 16 bits; None for ones.
        bias: [C] like weight, or None for zeros.
        training: take the statistics of the batch.
        momentum: the share of the batch in an update of the running statistics.
        eps: added to the variance (in training the biased one).
        activation: "relu" or None.

    Returns:
        x's shape and dtype, contiguous. 16-bit tensors are computed in float32.

    Raises:
        TypeError: an argument is not a floating-point tensor, dtypes differ, or a number is none.
        ValueError: shapes or devices do not fit, ``eps`` is negative or infinite, statistics are missing, the
            batch has one value a channel or none.
        RuntimeError: running statistics are to be updated under ``vmap`` over x.

    Source: Ioffe and Szegedy 2015, algorithm 1; ``README.md`` derives the second derivatives.
    """
    _check(x, running_mean, running_var, weight, bias, training, activation)
    eps, momentum = finite("eps", eps, 0), number("momentum", momentum)
    dtype, channels = x.dtype, x.shape[1]
    x, weight, bias = float32_where_mixed(x, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_like(name, tensor, x, (channels,))
    # [G, B, C, S]; two axes have no S: the batch lies along it
    grouped = x.t().reshape(1, 1, channels, -1) if x.dim() == 2 else x.flatten(2)[None]
    shared = [None if t is None else t.view(1, 1, channels, 1) for t in (weight, bias)]
    running = None if running_mean is None or running_var is None else (running_mean, running_var)
    statistics = (None, None) if training or running is None else _constants(*running, x.dtype)
    y, mean, var = batch_norm_operator.forward(
        grouped, *shared, *statistics, eps, activation or "none", backends.chosen()
    )
    if training and running is not None:
        _update((*running, mean, var), x.numel() // channels, momentum)
    return (y.view(channels, -1).t().contiguous() if x.dim() == 2 else reshaped(y, x.shape)).to(dtype)


def _constants(running_mean: Tensor, running_var: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """mean and var [1, 1, C, 1] in the arithmetic dtype."""
    wide = torch.promote_types(dtype, torch.float32)
    mean, var = running_mean.detach().to(wide), running_var.detach().to(wide)
    return mean.view(1, 1, -1, 1), var.view(1, 1, -1, 1)


def _update(statistics: tuple[Tensor, ...], count: int, momentum: float) -> None:
    """Moves running_mean and running_var [C] towards mean and var [1, C] of the batch, outside of every transform."""
    if torch.compiler.is_compiling():
        with torch.no_grad():
            _move(statistics, count, momentum)
        return
    values = tuple(plain_value(t) for t in statistics)
    with outside_transforms():
        _move(values, count, momentum)


def _move(statistics: tuple[Tensor, ...], count: int, momentum: float) -> None:
    running_mean, running_var, mean, var = statistics
    unbiased = var[0] * (count / (count - 1))
    running_mean.lerp_(mean[0].to(running_mean.dtype), momentum)
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def _check(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    activation: str | None,
) -> None:
    check_floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected at least two axes [batch, channels, ...]")
    if activation not in (None, "relu"):
        raise ValueError(f"activation: {activation!r}, expected None or 'relu'")
    if (running_mean is None) != (running_var is None) or not (training or running_mean is not None):
        raise ValueError("running_mean, running_var: expected both, or in training neither")
    if training and x.numel() <= x.shape[1]:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected more than one value a channel in training")
    for name, tensor in (("running_mean", running_mean), ("running_var", running_var)):
        if tensor is not None:
            check_floating(name, tensor)
            if tensor.shape != x.shape[1:2] or tensor.device != x.device:
                raise ValueError(
                    f"{name}: shape {tuple(tensor.shape)} on {tensor.device}, expected ({x.shape[1]},) on {x.device}"
                )
