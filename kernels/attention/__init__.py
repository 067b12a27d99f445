"""Scaled dot-product attention with an additive bias, and every derivative of it.

``reference.py`` is the specification, ``triton.py`` and ``cpu.py`` its kernels, ``README.md`` the derivation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_floating, finite, lowered_by_autocast
from .operator import attention_operator
from .positions import broadcasts, check_positions

MAX_HEAD_SIZE = 256  # what the tiles of the kernels are made for


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    table: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    kernel_size: int | tuple[int, int] | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale · query keyᵀ + bias) value, differentiable to any order in all five tensors.

    Reverse mode, forward mode, forward over reverse (Hessian-vector products), reverse over reverse and reverse over
    forward run in kernels that never build the score matrix; ``vmap``, ``torch.compile(fullgraph=True)`` and
    ``torch.export`` compose with all of them. Further derivatives (third order, forward over forward) are right, as
    plain PyTorch operations.

    Args:
        query: [..., N, D], floating point. Leading axes as in ``torch.nn.functional.scaled_dot_product_attention``
            (usually [B, H]); those of key and value broadcast with them. D at most 256.
        key: [..., M, D].
        value: [..., M, Dv], Dv at most 256.
        bias: broadcastable to [..., N, M]. Floating point: added to the scaled scores, learned or not, -inf hides a
            key. Boolean: True where a query may see a key.
        table: a bias by relative position, learned or not, [2h-1, 2w-1] or [heads, 2h-1, 2w-1], gathered inside the
            kernels: bias[i, j] = table[row(j) - row(i) + h-1, column(j) - column(i) + w-1]. Added to the other bias,
            where there is one.
        grid: (h, w), where table or kernel_size is given: the N = M = h·w tokens are the pixels of a map, row by row.
        kernel_size: (k, l), or k for both: a query sees the keys at most that far away, those at row offsets
            -⌊(k-1)/2⌋ to ⌊k/2⌋ and column offsets likewise (where "same" padding puts a convolution's kernel: even
            sizes reach one further down and right). Nothing lies beyond the border.
        scale: a finite number, a constant; 1/sqrt(D) by default.
        is_causal: query i sees the keys j <= i only (together with the bias, where there is one).
        enable_gqa: key and value may have fewer heads than query, [..., Hk, M, D] with H divisible by Hk: each serves
            H / Hk consecutive heads of query (grouped queries), without a copy.

    Returns:
        [..., N, Dv] in query's dtype. A query that sees no key gets zeros, and passes zero gradients, as in PyTorch.
        float16 and bfloat16 are accumulated in float32.

    Raises:
        TypeError: an argument is not a floating-point tensor, dtypes differ, or a number is none.
        ValueError: ranks, shapes, devices or numbers do not fit.

    Source: Vaswani et al. 2017, eq. 1; tiled as in Dao et al. 2022, whose second derivatives ``README.md`` derives.
    """
    query, key, value, bias, table = lowered_by_autocast(query, key, value, bias, table)
    _check_tensors(query, key, value, bias, table)
    lead = _grouped_axes(query, key, value) if enable_gqa else _leading_axes(query, key, value)
    key_lead = (*lead[:-1], key.shape[-3]) if enable_gqa else lead
    bias = _check_bias(bias, (*lead, query.shape[-2], key.shape[-2]), query.dtype)
    positions = check_positions(query.shape[-2], key.shape[-2], lead, table, grid, kernel_size)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else finite("scale", scale)
    out = attention_operator(
        _flatten(query, lead),
        _flatten(key, key_lead),
        _flatten(value, key_lead),
        None if bias is None else _flatten_bias(bias, lead),
        None if table is None else _flatten_bias(table, lead),
        scale,
        bool(is_causal),
        *positions,
    )
    return out.reshape(*lead, query.shape[-2], value.shape[-1])


def _check_tensors(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, table: Tensor | None) -> None:
    given = [(name, tensor) for name, tensor in (("bias", bias), ("table", table)) if tensor is not None]
    for name, tensor in (("query", query), ("key", key), ("value", value), *given):
        boolean = name == "bias" and isinstance(tensor, Tensor) and tensor.dtype == torch.bool
        if not boolean:
            check_floating(name, tensor)
        if tensor.device != query.device:
            raise ValueError(f"{name}: is on {tensor.device}, expected query's device {query.device}")
        if not boolean and tensor.dtype != query.dtype:
            raise TypeError(f"{name}: dtype {tensor.dtype}, expected query's dtype {query.dtype}")
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 2:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected at least two axes [..., tokens, features]")
        if not 1 <= tensor.shape[-1] <= MAX_HEAD_SIZE:
            raise ValueError(f"{name}: head size {tensor.shape[-1]}, expected 1 to {MAX_HEAD_SIZE}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"key: head size {key.shape[-1]}, expected query's {query.shape[-1]}")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"value: {value.shape[-2]} tokens, expected key's {key.shape[-2]}")


def _leading_axes(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    """The common leading axes."""
    lead = query.shape[:-2]
    if lead == key.shape[:-2] == value.shape[:-2]:  # broadcast_shapes takes half of a small call
        return lead
    try:
        return torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    except RuntimeError:
        shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in (("query", query), ("key", key), ("value", value)))
        raise ValueError(f"leading axes do not broadcast: {shapes}") from None


def _grouped_axes(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    """The leading axes where a head of key and value serves a group of query's."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 3:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected an axis of heads with enable_gqa")
    heads, key_heads = query.shape[-3], key.shape[-3]
    if key_heads == 0 or heads % key_heads:
        raise ValueError(f"key: {key_heads} heads, expected a divisor of query's {heads}")
    if value.shape[-3] != key_heads:
        raise ValueError(f"value: {value.shape[-3]} heads, expected key's {key_heads}")
    outer = _leading_axes(query[..., 0, :, :], key[..., 0, :, :], value[..., 0, :, :])
    return torch.Size((*outer, heads))


def _check_bias(bias: Tensor | None, target: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """The bias as numbers, if it broadcasts to ``target``."""
    if bias is None:
        return None
    if not broadcasts(bias.shape, target):
        raise ValueError(f"bias: shape {tuple(bias.shape)}, expected one that broadcasts to {target}")
    if bias.dtype == torch.bool:
        return torch.zeros_like(bias, dtype=dtype).masked_fill(~bias, -torch.inf)
    return bias


def _flatten(tensor: Tensor, lead: Sequence[int]) -> Tensor:
    """[..., N, D] -> [B, H, N, D]: the last leading axis is H, those before it fold into B."""
    if tensor.shape[:-2] != lead:
        tensor = tensor.expand(*lead, *tensor.shape[-2:])
    if len(lead) == 2:
        return tensor
    batch, heads = math.prod(lead[:-1]), lead[-1] if lead else 1
    return tensor.reshape(batch, heads, *tensor.shape[-2:])


def _flatten_bias(bias: Tensor, lead: torch.Size) -> Tensor:
    """[..., n, m] -> [B | 1, H | 1, n, m], expanded over B only where some of its axes broadcast and some do not."""
    bias = bias.reshape(*(1,) * (len(lead) + 2 - bias.dim()), *bias.shape)
    if len(lead) <= 1:
        return bias.reshape(1, *bias.shape[:-2] or (1,), *bias.shape[-2:])
    outer = bias.shape[:-3]
    if math.prod(outer) != 1 and outer != lead[:-1]:
        bias = bias.expand(*lead[:-1], *bias.shape[-3:])
    return bias.flatten(0, -4)
