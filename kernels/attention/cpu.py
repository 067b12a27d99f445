"""The four maps of attention on the CPU, in C++: tiled, threaded, vectorised, memory O(N) beyond inputs and outputs.

Requirements: CPU tensors and the extension ``alternet._C``. The kernels are in this folder's ``.h`` files, one for each
map; ``README.md`` derives the formulas. Shapes and dtypes: as in ``reference.py``.

Any strides serve, zero too: what is not laid out as the kernels like it is packed, a tile or a (batch, head) at a time;
the bias is read in place. Results do not depend on the number of threads (``torch.set_num_threads``). The best
instruction set of the processor is chosen when the extension loads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native

native.load()
_ops = torch.ops.alternet_native


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None,
    *,
    scale: float,
    is_causal: bool,
    grid: Sequence[int],
    kernel_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Returns out [B, H, N, Dv] and lse [B, H, N]."""
    return _ops.attention_forward(query, key, value, bias, table, scale, is_causal, grid, kernel_size)


def tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None,
    out: Tensor,
    lse: Tensor,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_bias: Tensor | None,
    t_table: Tensor | None,
    *,
    scale: float,
    is_causal: bool,
    grid: Sequence[int],
    kernel_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Returns t_out [T, B, H, N, Dv] and t_lse [T, B, H, N]; the T tangents share the recompute of the primal."""
    return _ops.attention_tangent(
        query, key, value, bias, table, out, lse, t_query, t_key, t_value, t_bias, t_table,
        scale, is_causal, grid, kernel_size,
    )  # fmt: skip


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    *,
    scale: float,
    is_causal: bool,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_query, d_key, d_value, d_bias, d_table, in the shapes of the inputs; ``None`` where not needed."""
    return _ops.attention_backward(
        query, key, value, bias, table, out, lse, grad, scale, is_causal, grid, kernel_size, needs
    )


def backward_tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_bias: Tensor | None,
    t_table: Tensor | None,
    t_out: Tensor | None,
    t_lse: Tensor | None,
    t_grad: Tensor | None,
    *,
    scale: float,
    is_causal: bool,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    return _ops.attention_backward_tangent(
        query, key, value, bias, table, out, lse, grad, t_query, t_key, t_value, t_bias, t_table, t_out, t_lse, t_grad,
        scale, is_causal, grid, kernel_size, needs,
    )  # fmt: skip
