"""The four maps of batch normalisation on the CPU, in C++: a channel at a time, threaded, vectorised.

Requirements: CPU tensors and the extension ``alternet._C``. Shapes and dtypes: as in ``reference.py``; what is not
contiguous is copied. Sums over a channel are taken a row at a time and added up in float64; a channel is one task, so
that results do not depend on the number of threads.
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
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y [G, B, C, S], batch_mean and batch_var [G, C]."""
    return _ops.batch_norm_forward(x.contiguous(), *_by_channel(weight, bias, mean, var), eps, activation)


def tangent(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    y: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    t_x: Tensor | None,
    t_weight: Tensor | None,
    t_bias: Tensor | None,
    t_mean: None,
    t_var: None,
    *,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns t_y [T, G, B, C, S] and the tangents of the statistics [T, G, C]."""
    x, batch_mean, batch_var, t_x = contiguous(x, batch_mean, batch_var, t_x)
    weight, bias, t_weight, t_bias = _by_channel(weight, bias, t_weight, t_bias)
    return _ops.batch_norm_tangent(
        x, weight, bias, batch_mean, batch_var, t_x, t_weight, t_bias, mean is None, eps, activation
    )  # fmt: skip


def backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    y: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    grad: Tensor,
    *,
    eps: float,
    activation: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_x, d_weight, d_bias, None, None in the shapes of the inputs; ``None`` where not needed."""
    primal = contiguous(x, *_by_channel(weight, bias), batch_mean, batch_var, grad)
    d_x, *shared = _ops.batch_norm_backward(*primal, mean is None, eps, activation, needs[:3])
    return d_x, *(_like_input(d, w) for d, w in zip(shared, (weight, bias), strict=True)), None, None


def backward_tangent(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    y: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    grad: Tensor,
    t_x: Tensor | None,
    t_weight: Tensor | None,
    t_bias: Tensor | None,
    t_mean: None,
    t_var: None,
    t_y: Tensor | None,
    t_batch_mean: Tensor | None,
    t_batch_var: Tensor | None,
    t_grad: Tensor | None,
    *,
    eps: float,
    activation: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    primal = contiguous(x, *_by_channel(weight, bias), batch_mean, batch_var, grad)
    tangents = contiguous(t_x, *_by_channel(t_weight, t_bias), t_batch_mean, t_batch_var, t_grad)
    t_d_x, *shared = _ops.batch_norm_backward_tangent(*primal, *tangents, mean is None, eps, activation, needs[:3])
    return t_d_x, *(_like_input(d, w) for d, w in zip(shared, (weight, bias), strict=True)), None, None


def _by_channel(*tensors: Tensor | None) -> list[Tensor | None]:
    """[..., G | 1, 1, C, 1] -> [..., G | 1, C] in the arithmetic dtype."""
    return [
        None if t is None else t[..., 0, :, 0].to(torch.promote_types(t.dtype, torch.float32)).contiguous()
        for t in tensors
    ]


def _like_input(d: Tensor | None, w: Tensor | None) -> Tensor | None:
    """[..., G, C] -> [..., G | 1, 1, C, 1] in the dtype of the input, summed over the groups that share it."""
    if d is None or w is None:
        return None
    return d[..., None, :, None].sum_to_size(*d.shape[:-2], *w.shape).to(w.dtype)
