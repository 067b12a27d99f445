"""The maps of window attention on the CPU, in C++: a strip of windows at a time, threaded, vectorised.

Requirements: CPU tensors and the extension ``alternet._C``. Shapes and dtypes: as in ``reference.py``, any strides. A
map reads each of its tensors once from memory and writes each result once; a window's scores lie in the cache. Results
do not depend on the number of threads (``torch.set_num_threads``).
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
    table: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
) -> tuple[Tensor]:
    """Returns out, of value's shape."""
    return (_ops.window_attention_forward(query, key, value, table, window_size, shift, scale, channels_last),)


def tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    out: Tensor,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_table: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
) -> tuple[Tensor]:
    """Returns t_out [T, ...]; the T tangents share the recompute of the primal."""
    x = query, key, value, table, t_query, t_key, t_value, t_table
    return (_ops.window_attention_tangent(*x, window_size, shift, scale, channels_last),)


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    out: Tensor,
    grad: Tensor,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns d_query, d_key, d_value, d_table, in the shapes of the inputs; ``None`` where not needed."""
    x = query, key, value, table, grad
    return _ops.window_attention_backward(*x, window_size, shift, scale, channels_last, needs)


def backward_tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    out: Tensor,
    grad: Tensor,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_table: Tensor | None,
    t_out: Tensor | None,
    t_grad: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    x = query, key, value, table, grad, t_query, t_key, t_value, t_table, t_grad
    return _ops.window_attention_backward_tangent(*x, window_size, shift, scale, channels_last, needs)


def forward_and_tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_table: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Returns out and t_out: query, key and value are read once for both, and P is computed once."""
    x = query, key, value, table, t_query, t_key, t_value, t_table
    return _ops.window_attention_forward_and_tangent(*x, window_size, shift, scale, channels_last)


def backward_and_tangent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    out: Tensor,
    grad: Tensor,
    t_query: Tensor | None,
    t_key: Tensor | None,
    t_value: Tensor | None,
    t_table: Tensor | None,
    t_out: Tensor | None,
    t_grad: Tensor | None,
    *,
    window_size: Sequence[int],
    shift: Sequence[int],
    scale: float,
    channels_last: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Returns ``backward``'s results and their tangents, of one P and dS; ``None`` where not needed."""
    x = query, key, value, table, grad, t_query, t_key, t_value, t_table, t_grad
    return _ops.window_attention_backward_and_tangent(*x, window_size, shift, scale, channels_last, needs)
