"""The Triton backend: the four maps of window attention, one kernel each, windows cut and put back inside.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. The kernels are in ``triton_forward`` and ``triton_backward``, their tiles in ``triton_configs``.
float16, bfloat16 and float32, accumulated in float32. Shapes: as in ``reference.py``, with any strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..attention import triton as attention
from . import reference
from .triton_problem import Problem


def forward(query: Tensor, key: Tensor, value: Tensor, table: Tensor | None, **parameters: Any) -> tuple[Tensor]:
    """Returns out, in value's shape."""
    from .triton_forward import window_attention_forward_kernel

    problem = Problem.of(query, value, **parameters)
    if not problem.has_tile("forward"):
        return reference.forward(query, key, value, table, **parameters, maps=attention)
    out = problem.like(value)
    problem.launch(
        window_attention_forward_kernel,
        "forward",
        table,
        **problem.maps(query=query, key=key, value=value, out=out),
        **problem.tables(table=table),
    )
    return (out,)


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
    **parameters: Any,
) -> tuple[Tensor]:
    """Returns t_out [T, *value.shape]."""
    from .triton_forward import window_attention_tangent_kernel

    problem = Problem.of(query, value, t_query, t_key, t_value, t_table, **parameters)
    if not problem.has_tile("tangent"):
        x = query, key, value, table, out, t_query, t_key, t_value, t_table
        return reference.tangent(*x, **parameters, maps=attention)
    t_out = problem.like(value, problem.T)
    problem.launch(
        window_attention_tangent_kernel,
        "tangent",
        table,
        **problem.maps(query=query, key=key, value=value, t_query=t_query, t_key=t_key, t_value=t_value, t_out=t_out),
        **problem.tables(table=table, t_table=t_table),
        T=problem.T,
    )
    return (t_out,)


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    out: Tensor,
    grad: Tensor,
    *,
    needs: Sequence[bool],
    **parameters: Any,
) -> tuple[Tensor | None, ...]:
    """Returns d_query, d_key, d_value, d_table in the shapes of the inputs; None where not needed."""
    from .triton_backward import window_attention_backward_kernel

    problem = Problem.of(query, value, **parameters)
    if not problem.has_tile("backward"):
        return reference.backward(query, key, value, table, out, grad, needs=needs, **parameters, maps=attention)
    d_query, d_key, d_value = (
        problem.like(x) if need else None for x, need in zip((query, key, value), needs[:3], strict=True)
    )
    parts = problem.table_parts("backward", table) if needs[3] else None
    problem.launch(
        window_attention_backward_kernel,
        "backward",
        table,
        **problem.maps(query=query, key=key, value=value, grad=grad, d_query=d_query, d_key=d_key, d_value=d_value),
        **problem.tables(table=table),
        d_table_ptr=parts,
    )
    d_table = problem.table_gradient(parts, table)
    return d_query, d_key, d_value, None if d_table is None else d_table[0]


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
    needs: Sequence[bool],
    **parameters: Any,
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; None where not needed."""
    from .triton_backward import window_attention_backward_tangent_kernel

    problem = Problem.of(query, value, t_query, t_key, t_value, t_table, t_grad, **parameters)
    if not problem.has_tile("backward_tangent"):
        x = query, key, value, table, out, grad, t_query, t_key, t_value, t_table, t_out, t_grad
        return reference.backward_tangent(*x, needs=needs, **parameters, maps=attention)
    t_d_query, t_d_key, t_d_value = (
        problem.like(x, problem.T) if need else None for x, need in zip((query, key, value), needs[:3], strict=True)
    )
    parts = problem.table_parts("backward_tangent", table) if needs[3] else None
    problem.launch(
        window_attention_backward_tangent_kernel,
        "backward_tangent",
        table,
        **problem.maps(query=query, key=key, value=value, grad=grad),
        **problem.maps(t_query=t_query, t_key=t_key, t_value=t_value, t_grad=t_grad),
        **problem.maps(t_d_query=t_d_query, t_d_key=t_d_key, t_d_value=t_d_value),
        **problem.tables(table=table, t_table=t_table),
        t_d_table_ptr=parts,
        T=problem.T,
    )
    return t_d_query, t_d_key, t_d_value, problem.table_gradient(parts, table)
