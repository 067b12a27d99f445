"""The Triton backend: the four maps of batch normalisation, one kernel each, a channel a program.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. float16, bfloat16 and float32, computed in float32. Shapes and dtypes: as in ``reference.py``; what
is not contiguous is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..missing import contiguous, count
from ..triton_rows import Config, launch, new, padded


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
    """Returns y [G, B, C, S], batch_mean and batch_var [G, C] (float32)."""
    from .triton_kernels import batch_norm_forward_kernel as kernel

    y, batch_mean, batch_var = new(x, *x.shape, dtype=x.dtype), *(new(x, x.shape[0], x.shape[2]) for _ in range(2))
    _launch(
        kernel, x, 1, eps, activation, mean_size=1 if mean is None else mean.numel(), weight=weight,
        bias=bias, mean=mean, var=var, y=y, batch_mean=batch_mean, batch_var=batch_var,
    )  # fmt: skip
    return y, batch_mean, batch_var


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
    """Returns t_y [T, G, B, C, S] and the tangents of the statistics [T, G, C] (float32)."""
    from .triton_kernels import batch_norm_tangent_kernel as kernel

    T = count(t_x, t_weight, t_bias)
    t_y = new(x, T, *x.shape, dtype=x.dtype)
    d_mean, d_var = (new(x, T, x.shape[0], x.shape[2]) for _ in range(2))
    _launch(
        kernel, x, T, eps, activation, channels=x.shape[0] * x.shape[2], TRAINING=mean is None, weight=weight,
        bias=bias, mean=batch_mean, var=batch_var, t_x=t_x, t_weight=t_weight, t_bias=t_bias, t_y=t_y, t_mean=d_mean,
        t_var=d_var,
    )  # fmt: skip
    return t_y, d_mean, d_var


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
    from .triton_kernels import batch_norm_backward_kernel as kernel

    d_x = new(x, *x.shape, dtype=x.dtype) if needs[0] else None
    d_weight, d_bias = (new(x, x.shape[0], x.shape[2]) for _ in range(2))
    _launch(
        kernel, x, 1, eps, activation, TRAINING=mean is None, weight=weight, bias=bias, mean=batch_mean, var=batch_var,
        grad=grad, d_x=d_x, d_weight=d_weight, d_bias=d_bias,
    )  # fmt: skip
    return d_x, *_like_inputs((d_weight, d_bias), (weight, bias), needs[1:3]), None, None


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
    from .triton_kernels import batch_norm_backward_tangent_kernel as kernel

    T = count(t_x, t_weight, t_bias, t_grad)
    t_d_x = new(x, T, *x.shape, dtype=x.dtype) if needs[0] else None
    t_d_weight, t_d_bias = (new(x, T, x.shape[0], x.shape[2]) for _ in range(2))
    _launch(
        kernel, x, T, eps, activation, channels=x.shape[0] * x.shape[2], TRAINING=mean is None, weight=weight,
        bias=bias, mean=batch_mean, var=batch_var, grad=grad, t_x=t_x, t_weight=t_weight, t_mean=t_batch_mean,
        t_var=t_batch_var, t_grad=t_grad, t_d_x=t_d_x, t_d_weight=t_d_weight, t_d_bias=t_d_bias,
    )  # fmt: skip
    return t_d_x, *_like_inputs((t_d_weight, t_d_bias), (weight, bias), needs[1:3]), None, None


_NUMBERS = ("mean_size", "channels", "TRAINING")


def _launch(kernel: Any, x: Tensor, T: int, eps: float, activation: str, **given: Any) -> None:
    """One program for each channel of each group and tangent."""
    G, B, C, S = x.shape
    arguments = {name: value for name, value in given.items() if name in _NUMBERS}
    tensors = {name: value for name, value in given.items() if name not in _NUMBERS}
    arguments |= {f"{n}_ptr": t for n, t in zip(tensors, contiguous(*tensors.values()), strict=True)}
    shared = tensors["weight"] if tensors["weight"] is not None else tensors["bias"]
    arguments["weight_size"] = C if shared is None else shared.numel()
    block = min(1024, padded(max(B * S, 1)))
    config = Config(1, block, 4, 1)
    arguments |= {"C": C, "S": S, "count": B * S, "eps": float(eps), "RELU": activation == "relu", "BLOCK": block}
    launch(kernel, T * G * C, config, x.device, x_ptr=x.contiguous(), **arguments)


def _like_inputs(
    gradients: Sequence[Tensor], inputs: Sequence[Tensor | None], needs: Sequence[bool]
) -> list[Tensor | None]:
    """[..., G, C] -> [..., G | 1, 1, C, 1] in the dtype of the input, summed over the groups that share it."""
    return [
        d[..., None, :, None].sum_to_size(*d.shape[:-2], *w.shape).to(w.dtype) if need and w is not None else None
        for d, w, need in zip(gradients, inputs, needs, strict=True)
    ]
