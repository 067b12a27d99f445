"""The Triton backend: the four maps of attention as flash-style GPU kernels, O(N) memory beyond inputs and outputs.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. The kernels are in ``triton_forward``, ``triton_backward``, ``triton_backward_tangent``,
``triton_bias`` and ``triton_table``, their tile sizes in ``triton_configs``. float16, bfloat16 and float32, accumulated
in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .triton_problem import Problem


def unavailable_reason() -> str | None:
    """Why this backend cannot run here, None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    if triton.knobs.runtime.interpret:
        return None
    if not torch.cuda.is_available():
        return "no CUDA or ROCm device is visible to torch, and TRITON_INTERPRET=1 is not set"
    if torch.version.hip is None and torch.cuda.get_device_capability()[0] < 8:
        return "the GPU's compute capability is below 8.0"
    return None


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    table: Tensor | None,
    **parameters: Any,
) -> tuple[Tensor, Tensor]:
    """Returns out [B, H, N, Dv] and lse [B, H, N] (float32)."""
    from .triton_forward import attention_forward_kernel

    problem = Problem.of(query, key, value, **parameters)
    out = problem.query_like(problem.DV)
    lse = problem.row_values()
    problem.launch_over_queries(
        attention_forward_kernel,
        "forward",
        **problem.matrices(
            query=query, key=key, value=value, bias=problem.whole(bias), table=problem.whole_table(table), out=out
        ),
        lse_ptr=lse,
    )
    return out, lse


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
    **parameters: Any,
) -> tuple[Tensor, Tensor]:
    """Returns t_out [T, B, H, N, Dv] and t_lse [T, B, H, N] (float32)."""
    from .triton_forward import attention_tangent_kernel

    problem = Problem.of(query, key, value, t_query, t_key, t_value, t_bias, t_table, **parameters)
    t_out = problem.query_like(problem.DV, problem.T)
    t_lse = problem.row_values(problem.T)
    problem.launch_over_queries(
        attention_tangent_kernel,
        "tangent",
        **problem.matrices(
            query=query, key=key, value=value, bias=problem.whole(bias), table=problem.whole_table(table), out=out
        ),
        **problem.matrices(
            t_query=t_query,
            t_key=t_key,
            t_value=t_value,
            t_bias=problem.whole(t_bias),
            t_table=problem.whole_table(t_table),
            t_out=t_out,
        ),
        lse_ptr=lse.contiguous(),
        t_lse_ptr=t_lse,
        T=problem.T,
        B=problem.B,
    )
    return t_out, t_lse


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
    needs: Sequence[bool],
    **parameters: Any,
) -> tuple[Tensor | None, ...]:
    """Returns d_query, d_key, d_value, d_bias, d_table in the shapes of the inputs; None where not needed."""
    from . import triton_backward, triton_bias, triton_table

    problem = Problem.of(query, key, value, **parameters)
    delta = _delta(problem, out, grad)
    arguments = {
        **problem.matrices(
            query=query, key=key, value=value, bias=problem.whole(bias), table=problem.whole_table(table), grad=grad
        ),
        "lse_ptr": lse.contiguous(),
        "delta_ptr": delta,
    }
    d_query = problem.query_like(problem.D) if needs[0] else None
    d_key = problem.key_like(problem.D) if needs[1] else None
    d_value = problem.key_like(problem.DV) if needs[2] else None
    d_bias = d_table = None
    if needs[0]:
        kernel = triton_backward.attention_backward_query_kernel
        problem.launch_over_queries(kernel, "backward_query", **arguments, **problem.matrices(d_query=d_query))
    if needs[1] or needs[2]:
        kernel = triton_backward.attention_backward_key_value_kernel
        results = problem.matrices(d_key=d_key, d_value=d_value)
        problem.launch_over_keys(kernel, "backward_key_value", **arguments, **results)
    if needs[3]:
        kernel = triton_bias.attention_backward_bias_kernel
        d_bias = problem.launch_over_bias(kernel, "backward_bias", bias.shape, "d_bias_ptr", **arguments)[0]
    if needs[4]:
        kernel = triton_table.attention_backward_table_kernel
        d_table = problem.launch_over_table(kernel, "backward_bias", table.shape, "d_table_ptr", **arguments)[0]
    return d_query, problem.shared(d_key, key.shape[1]), problem.shared(d_value, value.shape[1]), d_bias, d_table


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
    needs: Sequence[bool],
    **parameters: Any,
) -> tuple[Tensor | None, ...]:
    """Returns the tangents of ``backward``'s results, each [T, ...]; None where not needed."""
    from . import triton_backward_tangent, triton_bias, triton_table

    problem = Problem.of(query, key, value, t_query, t_key, t_value, t_bias, t_table, t_grad, **parameters)
    T = problem.T
    arguments = {
        **problem.matrices(
            query=query, key=key, value=value, bias=problem.whole(bias), table=problem.whole_table(table), grad=grad
        ),
        **problem.matrices(
            t_query=t_query,
            t_key=t_key,
            t_value=t_value,
            t_bias=problem.whole(t_bias),
            t_table=problem.whole_table(t_table),
            t_grad=t_grad,
        ),
        "lse_ptr": lse.contiguous(),
        "delta_ptr": _delta(problem, out, grad),
        "t_lse_ptr": None if t_lse is None else t_lse.contiguous(),
        "t_delta_ptr": _delta_tangent(problem, out, grad, t_out, t_grad),
        "T": T,
        "B": problem.B,
    }
    t_d_query = problem.query_like(problem.D, T) if needs[0] else None
    t_d_key = problem.key_like(problem.D, T) if needs[1] else None
    t_d_value = problem.key_like(problem.DV, T) if needs[2] else None
    t_d_bias = t_d_table = None
    if needs[0]:
        kernel = triton_backward_tangent.attention_backward_tangent_query_kernel
        problem.launch_over_queries(
            kernel, "backward_tangent_query", **arguments, **problem.matrices(t_d_query=t_d_query)
        )
    if needs[1] or needs[2]:
        kernel = triton_backward_tangent.attention_backward_tangent_key_value_kernel
        results = problem.matrices(t_d_key=t_d_key, t_d_value=t_d_value)
        problem.launch_over_keys(kernel, "backward_tangent_key_value", **arguments, **results)
    if needs[3]:
        kernel = triton_bias.attention_backward_tangent_bias_kernel
        t_d_bias = problem.launch_over_bias(kernel, "backward_tangent_bias", bias.shape, "t_d_bias_ptr", **arguments)
    if needs[4]:
        kernel = triton_table.attention_backward_tangent_table_kernel
        t_d_table = problem.launch_over_table(
            kernel, "backward_tangent_bias", table.shape, "t_d_table_ptr", **arguments
        )
    t_d_key, t_d_value = problem.shared(t_d_key, key.shape[1]), problem.shared(t_d_value, value.shape[1])
    return t_d_query, t_d_key, t_d_value, t_d_bias, t_d_table


def _delta(problem: Problem, out: Tensor, grad: Tensor) -> Tensor:
    """delta [B, H, N] = rowsum(grad∘out), float32."""
    from .triton_backward import attention_delta_kernel

    delta = problem.row_values()
    problem.launch_over_rows(attention_delta_kernel, **problem.matrices(out=out, grad=grad), delta_ptr=delta)
    return delta


def _delta_tangent(problem: Problem, out: Tensor, grad: Tensor, t_out: Tensor | None, t_grad: Tensor | None) -> Tensor:
    """delta' [T, B, H, N], float32."""
    from .triton_backward_tangent import attention_delta_tangent_kernel

    t_delta = problem.row_values(problem.T)
    problem.launch_over_rows(
        attention_delta_tangent_kernel,
        **problem.matrices(out=out, grad=grad, t_out=t_out, t_grad=t_grad),
        t_delta_ptr=t_delta,
        T=problem.T,
        B=problem.B,
    )
    return t_delta
