"""The Triton backend: the four maps of layer normalisation, one kernel each, every tensor read once.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. Rows of at most 8192; float16, bfloat16 and float32, computed in float32. Shapes and dtypes: as in
``reference.py``; what is not contiguous is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..missing import contiguous, count
from ..triton_rows import Config, chunk_rows, launch, new, row_config, summed


def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns y [B, N, D], mean and rstd [B, N] (float32)."""
    from .triton_kernels import layer_norm_forward_kernel

    x, weight, bias = contiguous(x, weight, bias)
    config = row_config(x.shape[-1], 4096)
    y, mean, rstd = new(x, *x.shape, dtype=x.dtype), new(x, *x.shape[:2]), new(x, *x.shape[:2])
    launch(
        layer_norm_forward_kernel,
        _tiles(x, config),
        config,
        x.device,
        x_ptr=x, weight_ptr=weight, bias_ptr=bias, y_ptr=y, mean_ptr=mean, rstd_ptr=rstd,
        weight_batch=_batch(weight), bias_batch=_batch(bias), eps=float(eps),
        **_sizes(x, config),
    )  # fmt: skip
    return y, mean, rstd


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
    """Returns t_y [T, B, N, D], t_mean and t_rstd [T, B, N] (float32)."""
    from .triton_kernels import layer_norm_tangent_kernel

    x, weight, mean, rstd = contiguous(x, weight, mean, rstd)
    t_x, t_weight, t_bias = contiguous(t_x, t_weight, t_bias)
    T, config = count(t_x, t_weight, t_bias), row_config(x.shape[-1], 2048)
    t_y, t_mean, t_rstd = new(x, T, *x.shape, dtype=x.dtype), new(x, T, *x.shape[:2]), new(x, T, *x.shape[:2])
    launch(
        layer_norm_tangent_kernel,
        _tiles(x, config),
        config,
        x.device,
        x_ptr=x, weight_ptr=weight, mean_ptr=mean, rstd_ptr=rstd,
        t_x_ptr=t_x, t_weight_ptr=t_weight, t_bias_ptr=t_bias, t_y_ptr=t_y, t_mean_ptr=t_mean, t_rstd_ptr=t_rstd,
        weight_batch=_batch(weight), t_weight_tangent=_step(t_weight),
        t_bias_batch=_batch(bias), t_bias_tangent=_step(t_bias), T=T, B=x.shape[0],
        **_sizes(x, config),
    )  # fmt: skip
    return t_y, t_mean, t_rstd


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
    from .triton_kernels import layer_norm_backward_kernel

    x, weight, mean, rstd, grad = contiguous(x, weight, mean, rstd, grad)
    config = row_config(x.shape[-1], 2048)
    chunk, chunks = _chunks(x, config)
    d_x = new(x, *x.shape, dtype=x.dtype) if needs[0] else None
    d_weight, d_bias = (new(x, 1, x.shape[0], chunks, x.shape[-1]) if need else None for need in needs[1:])
    launch(
        layer_norm_backward_kernel,
        x.shape[0] * chunks,
        config,
        x.device,
        x_ptr=x, weight_ptr=weight, mean_ptr=mean, rstd_ptr=rstd, grad_ptr=grad,
        d_x_ptr=d_x, d_weight_ptr=d_weight, d_bias_ptr=d_bias, weight_batch=_batch(weight), CHUNK=chunk,
        **_sizes(x, config),
    )  # fmt: skip
    shared = (None if d is None else summed(d, w)[0] for d, w in ((d_weight, weight), (d_bias, bias)))
    return d_x, *shared


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
    from .triton_kernels import layer_norm_backward_tangent_kernel

    T = count(t_x, t_weight, t_bias, t_grad)
    x, weight, mean, rstd, grad = contiguous(x, weight, mean, rstd, grad)
    t_x, t_weight, t_mean, t_rstd, t_grad = contiguous(t_x, t_weight, t_mean, t_rstd, t_grad)
    config = row_config(x.shape[-1], 1024)
    chunk, chunks = _chunks(x, config)
    t_d_x = new(x, T, *x.shape, dtype=x.dtype) if needs[0] else None
    t_d_weight, t_d_bias = (new(x, T, x.shape[0], chunks, x.shape[-1]) if need else None for need in needs[1:])
    launch(
        layer_norm_backward_tangent_kernel,
        T * x.shape[0] * chunks,
        config,
        x.device,
        x_ptr=x, weight_ptr=weight, mean_ptr=mean, rstd_ptr=rstd, grad_ptr=grad,
        t_x_ptr=t_x, t_weight_ptr=t_weight, t_mean_ptr=t_mean, t_rstd_ptr=t_rstd, t_grad_ptr=t_grad,
        t_d_x_ptr=t_d_x, t_d_weight_ptr=t_d_weight, t_d_bias_ptr=t_d_bias,
        weight_batch=_batch(weight), t_weight_tangent=_step(t_weight), B=x.shape[0], CHUNK=chunk,
        **_sizes(x, config),
    )  # fmt: skip
    shared = (None if d is None else summed(d, w) for d, w in ((t_d_weight, weight), (t_d_bias, bias)))
    return t_d_x, *shared


def _sizes(x: Tensor, config: Config) -> dict[str, Any]:
    return {"N": x.shape[1], "D": x.shape[2], "BLOCK_N": config.block_m, "BLOCK_D": config.block_n}


def _tiles(x: Tensor, config: Config) -> int:
    """Programs of one tile of rows each."""
    return x.shape[0] * -(-x.shape[1] // config.block_m)


def _chunks(x: Tensor, config: Config) -> tuple[int, int]:
    """Rows of a program that adds up over them, and how many such programs one of the batch has."""
    rows = chunk_rows(x.shape[1], config)
    return rows, -(-x.shape[1] // rows)


def _batch(shared: Tensor | None) -> int:
    """The step from one of the batch to the next of a tensor [B | 1, 1, D]."""
    return 0 if shared is None or shared.shape[0] == 1 else shared.shape[-1]


def _step(t_shared: Tensor | None) -> int:
    """The step from one tangent to the next of a tensor [T, B | 1, 1, D]."""
    return 0 if t_shared is None else t_shared[0].numel()
