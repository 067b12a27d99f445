"""The four maps of layer normalisation on the CPU, in C++: a row at a time, threaded, vectorised.

Requirements: CPU tensors and the extension ``alternet._C``. Shapes and dtypes: as in ``reference.py``; what is not
contiguous is copied. Every map reads each of its tensors once from memory. Results do not depend on the number of
threads: sums over rows are taken in blocks and added up in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..missing import contiguous

native.load()
_ops = torch.ops.alternet_native


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y [B, N, D], mean and rstd [B, N]."""
    return _ops.layer_norm_forward(*contiguous(x, weight, bias), eps)


def tangent(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    t_x: Tensor | None,
    t_weight: Tensor | None,
    t_bias: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns t_y [T, B, N, D], t_mean and t_rstd [T, B, N]."""
    return _ops.layer_norm_tangent(*contiguous(x, weight, bias, mean, rstd, t_x, t_weight, t_bias))


def backward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    grad: Tensor,
    *,
    eps: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_x, d_weight, d_bias in the shapes of the inputs; ``None`` where not needed."""
    return _ops.layer_norm_backward(*contiguous(x, weight, bias, mean, rstd, grad), needs)


def backward_tangent(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    grad: Tensor,
    t_x: Tensor | None,
    t_weight: Tensor | None,
    t_bias: Tensor | None,
    t_y: Tensor | None,
    t_mean: Tensor | None,
    t_rstd: Tensor | None,
    t_grad: Tensor | None,
    *,
    eps: float,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    primal = contiguous(x, weight, bias, mean, rstd, grad)
    tangents = contiguous(t_x, t_weight, t_bias, t_mean, t_rstd, t_grad)
    return _ops.layer_norm_backward_tangent(*primal, *tangents, needs)
