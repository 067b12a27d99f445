"""Layer normalisation over the last axis, and every derivative of it.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, ``README.md`` the derivation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import autocasts, check_floating, check_like, finite, float32_where_mixed, in_dtype, is_16_bit
from ..dispatcher import reshaped
from .operator import layer_norm_operator


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) · weight + bias over the last axis, differentiable to any order in all tensors.

    As ``torch.nn.functional.layer_norm`` with ``normalized_shape = x.shape[-1:]``; flatten several trailing axes first.

    Args:
        x: [..., D], floating point.
        weight: [D] in x's dtype, or in float32 where that has 16 bits; None for ones.
        bias: [D] like weight, or None for zeros.
        eps: added to the variance (the biased one, over D).

    Returns:
        [..., D] in x's dtype; in float32 under autocast on a GPU, as PyTorch's own. 16 bits are computed in float32.

    Raises:
        TypeError: an argument is not a floating-point tensor, dtypes differ, or ``eps`` is no number.
        ValueError: shapes or devices do not fit, or ``eps`` is negative or infinite.

    Source: Ba et al. 2016, eqs. 3 and 4; ``README.md`` derives the second derivatives.
    """
    check_floating("x", x)
    eps = finite("eps", eps, 0)
    dtype = torch.float32 if is_16_bit(x) and x.device.type != "cpu" and autocasts(x.device) else x.dtype
    x, weight, bias = float32_where_mixed(x, weight, bias)
    if x.dim() == 0:
        raise ValueError("x: shape (), expected at least one axis [..., features]")
    width = x.shape[-1]
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_like(name, tensor, x, (width,))
    # three axes, as transformers have: no view round the operator, which every transform would see
    rows = x if x.dim() == 3 else x.reshape(1, x.numel() // width, width) if width else x.reshape(1, 0, 0)
    y = layer_norm_operator(rows, *(None if t is None else t.view(1, 1, width) for t in (weight, bias)), eps)
    return in_dtype(y if rows is x else reshaped(y, x.shape), dtype)
