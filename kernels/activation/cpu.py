"""The maps of activations on the CPU, in C++: one pass over memory each, threaded, vectorised.

Requirements: CPU tensors and the extension ``alternet._C``. Shapes and dtypes: as in ``reference.py``; what is not
contiguous is copied. Results do not depend on the number of threads: the bias's gradient is summed in blocks, which are
added up in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..missing import contiguous

native.load()
_ops = torch.ops.alternet_native


def forward(x: Tensor, bias: Tensor | None, *, kind: str) -> tuple[Tensor]:
    """Returns y in x's shape."""
    return (_ops.activation_forward(*contiguous(x, bias), kind),)


def tangent(
    x: Tensor, bias: Tensor | None, y: Tensor, t_x: Tensor | None, t_bias: Tensor | None, *, kind: str
) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    return (_ops.activation_tangent(*contiguous(x, bias, t_x, t_bias), kind),)


def backward(
    x: Tensor, bias: Tensor | None, y: Tensor, grad: Tensor, *, kind: str, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Returns d_x and d_bias in the shapes of the inputs; ``None`` where not needed."""
    return _ops.activation_backward(*contiguous(x, bias, grad), kind, needs)


def backward_tangent(
    x: Tensor,
    bias: Tensor | None,
    y: Tensor,
    grad: Tensor,
    t_x: Tensor | None,
    t_bias: Tensor | None,
    t_y: Tensor | None,
    t_grad: Tensor | None,
    *,
    kind: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    return _ops.activation_backward_tangent(*contiguous(x, bias, grad, t_x, t_bias, t_grad), kind, needs)


def forward_and_tangent(
    x: Tensor, bias: Tensor | None, t_x: Tensor | None, t_bias: Tensor | None, *, kind: str
) -> tuple[Tensor, Tensor]:
    """Returns y and t_y: most of the work is the normal distribution's, which both need."""
    return _ops.activation_forward_and_tangent(*contiguous(x, bias, t_x, t_bias), kind)


def backward_and_tangent(
    x: Tensor,
    bias: Tensor | None,
    y: Tensor,
    grad: Tensor,
    t_x: Tensor | None,
    t_bias: Tensor | None,
    t_y: Tensor | None,
    t_grad: Tensor | None,
    *,
    kind: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_x, d_bias and their tangents; ``None`` where not needed."""
    return _ops.activation_backward_and_tangent(*contiguous(x, bias, grad, t_x, t_bias, t_grad), kind, needs)
