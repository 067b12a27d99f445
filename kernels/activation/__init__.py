"""GELU and ReLU with an optional bias before them, and every derivative.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, ``README.md`` the formulas.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..checks import check_floating, check_like
from ..dispatcher import reshaped
from .operator import activation_operator


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """u Φ(u) of u = x + bias, differentiable to any order in both tensors; as ``torch.nn.functional.gelu``.

    Args:
        x: [..., D], floating point.
        bias: [D] in x's dtype, added to x before; None for none.
        approximate: "none": Φ is the normal distribution's cumulative function. "tanh": its approximation
            (1 + tanh(sqrt(2/π) (u + 0.044715 u³))) / 2.

    Returns:
        x's shape and dtype. float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit; ``approximate`` is another word.

    Source: Hendrycks and Gimpel 2016.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: {approximate!r}, expected 'none' or 'tanh'")
    return _activation(x, bias, "gelu" if approximate == "none" else "gelu_tanh")


def relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """max(x + bias, 0), with slope 0 at 0 and 1 at NaN; as ``torch.nn.functional.relu``.

    Arguments and errors as for ``gelu``.
    """
    return _activation(x, bias, "relu")


def _activation(x: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    check_floating("x", x)
    if bias is None:
        return activation_operator(x, None, kind) if x.dim() else activation_operator(x[None], None, kind)[0]
    if x.dim() == 0:
        raise ValueError("x: shape (), expected at least one axis [..., features], for the bias")
    width = x.shape[-1]
    check_like("bias", bias, x, (width,))
    rows = x.reshape(1, -1, width) if width else x.reshape(1, 0, 0)
    return reshaped(activation_operator(rows, bias.view(1, 1, width), kind), x.shape)
