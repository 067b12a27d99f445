"""The Triton backend: the four maps of activations, one kernel each, every tensor read once.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. float16, bfloat16 and float32, computed in float32. Shapes and dtypes: as in ``reference.py``; what
is not contiguous is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..missing import contiguous, count
from ..triton_rows import Config, chunk_rows, launch, new, row_config, summed

_COLUMNS = 1024  # of a tile at most


class _Call:
    """What every kernel is given; without a bias x is one row."""

    def __init__(self, x: Tensor, bias: Tensor | None, kind: str) -> None:
        self.x, self.bias = contiguous(x, bias)
        self.B, self.N, self.D = (1, 1, x.numel()) if bias is None else x.shape
        self.config: Config = row_config(max(1, min(self.D, _COLUMNS)), 2048)
        self.arguments: dict[str, Any] = {
            "x_ptr": self.x,
            "bias_ptr": self.bias,
            "bias_batch": 0 if bias is None or bias.shape[0] == 1 else self.D,
            "N": self.N,
            "D": self.D,
            "KIND": kind,
            "BLOCK_N": self.config.block_m,
            "BLOCK_D": self.config.block_n,
        }
        self.chunk = chunk_rows(self.N, self.config)
        self.chunks = -(-self.N // self.chunk)

    def launch(self, kernel: Any, row_programs: int, **arguments: Any) -> None:
        programs = row_programs * -(-self.D // self.config.block_n)
        launch(kernel, programs, self.config, self.x.device, **self.arguments, **arguments)

    def tiles(self) -> int:
        return self.B * -(-self.N // self.config.block_m)


def forward(x: Tensor, bias: Tensor | None, *, kind: str) -> tuple[Tensor]:
    """Returns y in x's shape."""
    from .triton_kernels import activation_forward_kernel

    call = _Call(x, bias, kind)
    y = new(x, *x.shape, dtype=x.dtype)
    call.launch(activation_forward_kernel, call.tiles(), y_ptr=y)
    return (y,)


def tangent(
    x: Tensor, bias: Tensor | None, y: Tensor, t_x: Tensor | None, t_bias: Tensor | None, *, kind: str
) -> tuple[Tensor]:
    """Returns t_y [T, ...]."""
    from .triton_kernels import activation_tangent_kernel

    call = _Call(x, bias, kind)
    t_x, t_bias = contiguous(t_x, t_bias)
    T = count(t_x, t_bias)
    t_y = new(x, T, *x.shape, dtype=x.dtype)
    call.launch(
        activation_tangent_kernel, call.tiles(),
        t_x_ptr=t_x, t_bias_ptr=t_bias, t_y_ptr=t_y, t_bias_tangent=_step(t_bias), T=T, B=call.B,
    )  # fmt: skip
    return (t_y,)


def backward(
    x: Tensor, bias: Tensor | None, y: Tensor, grad: Tensor, *, kind: str, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Returns d_x and d_bias in the shapes of the inputs; ``None`` where not needed."""
    from .triton_kernels import activation_backward_kernel

    call = _Call(x, bias, kind)
    d_x = new(x, *x.shape, dtype=x.dtype) if needs[0] else None
    d_bias = new(x, 1, call.B, call.chunks, call.D) if needs[1] else None
    call.launch(
        activation_backward_kernel, call.B * call.chunks,
        grad_ptr=grad.contiguous(), d_x_ptr=d_x, d_bias_ptr=d_bias, CHUNK=call.chunk,
    )  # fmt: skip
    return d_x, None if d_bias is None else summed(d_bias, bias)[0]


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
    from .triton_kernels import activation_backward_tangent_kernel

    call = _Call(x, bias, kind)
    grad, t_x, t_bias, t_grad = contiguous(grad, t_x, t_bias, t_grad)
    T = count(t_x, t_bias, t_grad)
    t_d_x = new(x, T, *x.shape, dtype=x.dtype) if needs[0] else None
    t_d_bias = new(x, T, call.B, call.chunks, call.D) if needs[1] else None
    call.launch(
        activation_backward_tangent_kernel, T * call.B * call.chunks,
        grad_ptr=grad, t_x_ptr=t_x, t_bias_ptr=t_bias, t_grad_ptr=t_grad, t_d_x_ptr=t_d_x, t_d_bias_ptr=t_d_bias,
        t_bias_tangent=_step(t_bias), B=call.B, CHUNK=call.chunk,
    )  # fmt: skip
    return t_d_x, None if t_d_bias is None else summed(t_d_bias, bias)


def _step(t_bias: Tensor | None) -> int:
    """The step from one tangent to the next of a tensor [T, B | 1, 1, D]."""
    return 0 if t_bias is None else t_bias[0].numel()
