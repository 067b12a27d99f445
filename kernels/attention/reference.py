"""The specification: the four maps of attention in plain PyTorch, with the whole score matrix.

S = s·QKᵀ + B, L = logsumexp(S), P = exp(S - L), O = PV (README.md of this folder derives the other three maps). B is
the bias, and what a table of relative positions and a neighbourhood stand for (``positions.py``).
float16 and bfloat16 are computed in float32. A query that sees no key has output 0 and L = +inf, which makes its row
of P = exp(S - L) zero in every map.

Everything here is a differentiable composition (nothing in place, no data-dependent branch), so PyTorch can take the
derivatives that the four maps do not give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import positions


def forward(
    query, key, value, bias, table, *, scale: float, is_causal: bool, grid: Sequence[int], kernel_size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Returns out [B, H, N, Dv] and lse [B, H, N]."""
    q, k, v, b = _widen(query, _each(key, query), _each(value, query), _bias(query, bias, table, grid, kernel_size))
    scores = _scores(q, k, b, scale, is_causal)
    lse = _logsumexp(scores)
    out = torch.exp(scores - lse[..., None]) @ v
    return out.to(query.dtype), lse


def tangent(
    query, key, value, bias, table, out, lse, t_query, t_key, t_value, t_bias, t_table,
    *, scale: float, is_causal: bool, grid: Sequence[int], kernel_size: Sequence[int],
):  # fmt: skip
    """Returns t_out [T, B, H, N, Dv] and t_lse [T, B, H, N]."""
    q, k, v, b = _widen(query, _each(key, query), _each(value, query), _bias(query, bias, table, grid, kernel_size))
    t_q, t_k, t_v, t_b = _widen(t_query, _each(t_key, query), _each(t_value, query), _t_bias(t_bias, t_table, grid))
    p = _probabilities(q, k, b, lse, scale, is_causal)  # [B, H, N, M]
    t_scores = _t_scores(q, k, t_q, t_k, t_b, scale)
    t_lse = _rowsum(p, t_scores)
    if t_lse is None:
        t_lse = lse.new_zeros((_count(t_v), *lse.shape))
        t_out = p @ t_v
    else:
        t_out = _sum((p * (t_scores - t_lse[..., None])) @ v, _product(p, t_v))
    return t_out.to(query.dtype), t_lse


def backward(
    query, key, value, bias, table, out, lse, grad,
    *, scale: float, is_causal: bool, grid: Sequence[int], kernel_size: Sequence[int], needs,
):  # fmt: skip
    """Returns d_query, d_key, d_value, d_bias, d_table, in the shapes of the inputs; ``None`` where not needed."""
    q, k, v, b, o, g = _widen(
        query, _each(key, query), _each(value, query), _bias(query, bias, table, grid, kernel_size), out, grad
    )
    p = _probabilities(q, k, b, lse, scale, is_causal)
    delta = (g * o).sum(-1, keepdim=True)
    d_scores = p * (g @ v.mT - delta)
    d_query = scale * (d_scores @ k) if needs[0] else None
    d_key = _shared(scale * (d_scores.mT @ q), key) if needs[1] else None
    d_value = _shared(p.mT @ g, value) if needs[2] else None
    d_bias = d_scores.sum_to_size(bias.shape) if needs[3] else None
    d_table = _d_table(d_scores, table.shape, grid) if needs[4] else None
    return _narrow((d_query, d_key, d_value, d_bias, d_table), query.dtype)


def backward_tangent(
    query, key, value, bias, table, out, lse, grad, t_query, t_key, t_value, t_bias, t_table, t_out, t_lse, t_grad,
    *, scale: float, is_causal: bool, grid: Sequence[int], kernel_size: Sequence[int], needs,
):  # fmt: skip
    """Returns the tangents of ``backward``'s results, each [T, ...]; ``None`` where not needed."""
    q, k, v, b, o, g = _widen(
        query, _each(key, query), _each(value, query), _bias(query, bias, table, grid, kernel_size), out, grad
    )
    t_q, t_k, t_v, t_b, t_o, t_g = _widen(
        t_query, _each(t_key, query), _each(t_value, query), _t_bias(t_bias, t_table, grid), t_out, t_grad
    )
    p = _probabilities(q, k, b, lse, scale, is_causal)
    t_scores = _t_scores(q, k, t_q, t_k, t_b, scale)
    t_p = None if t_scores is None else p * (t_scores - t_lse[..., None])

    centred = g @ v.mT - (g * o).sum(-1, keepdim=True)  # dP - delta
    t_delta = _sum(_times(t_g, o), _times(t_o, g))
    t_centred = _sum(_product(t_g, v.mT), _product(g, None if t_v is None else t_v.mT))
    if t_delta is not None:
        t_delta = t_delta.sum(-1, keepdim=True)
        t_centred = -t_delta if t_centred is None else t_centred - t_delta
    d_scores = p * centred
    t_d_scores = _sum(_times(t_p, centred), _times(t_centred, p))

    count = _count(t_query, t_key, t_value, t_bias, t_table, t_grad)
    d_query = d_key = d_value = d_bias = d_table = None
    if needs[0]:
        d_query = _filled(_scaled(_sum(_product(t_d_scores, k), _product(d_scores, t_k)), scale), query, count)
    if needs[1]:
        mT = None if t_d_scores is None else t_d_scores.mT
        d_key = _scaled(_sum(_product(mT, q), _product(d_scores.mT, t_q)), scale)
        d_key = _filled(_shared(d_key, key), key, count)
    if needs[2]:
        d_value = _sum(_product(None if t_p is None else t_p.mT, g), _product(p.mT, t_g))
        d_value = _filled(_shared(d_value, value), value, count)
    if needs[3]:
        d_bias = _filled(None if t_d_scores is None else t_d_scores.sum_to_size(count, *bias.shape), bias, count)
    if needs[4]:
        d_table = _filled(
            None if t_d_scores is None else _d_table(t_d_scores, (count, *table.shape), grid), table, count
        )
    return _narrow((d_query, d_key, d_value, d_bias, d_table), query.dtype)


def _widen(*tensors: Tensor | None) -> list[Any]:
    """To the arithmetic dtype: float64 stays, everything narrower is computed in float32."""
    return [t if t is None or t.dtype == torch.float64 else t.float() for t in tensors]


def _narrow(tensors: tuple, dtype: torch.dtype) -> tuple:
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def _each(key: Tensor | None, query: Tensor) -> Tensor | None:
    """[..., Hk, M, D] with a head for every head of query: each serves a group of consecutive ones."""
    if key is None or key.shape[-3] == query.shape[-3]:
        return key
    return key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)


def _shared(gradient: Tensor | None, key: Tensor) -> Tensor | None:
    """The sum over groups: the transpose of ``_each``."""
    if gradient is None or gradient.shape[-3] == key.shape[-3]:
        return gradient
    return gradient.unflatten(-3, (key.shape[-3], -1)).sum(-3)


def _bias(query: Tensor, bias: Tensor | None, table: Tensor | None, grid: Sequence[int], kernel_size: Sequence[int]):
    """All that is added to the scores: the bias, what the table stands for, -inf outside the neighbourhood."""
    total = _t_bias(bias, table, grid)
    if not kernel_size:
        return total
    hidden = positions.hidden(grid, kernel_size, query.device)
    zeros = torch.zeros(hidden.shape, dtype=torch.float32, device=query.device) if total is None else total
    return zeros.masked_fill(hidden, -torch.inf)


def _t_bias(t_bias: Tensor | None, t_table: Tensor | None, grid: Sequence[int]) -> Tensor | None:
    t_b, t_tab = _widen(t_bias, t_table)
    return _sum(t_b, None if t_tab is None else positions.gather(t_tab, grid))


def _d_table(d_scores: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    return positions.scatter(d_scores.sum_to_size(*shape[:-2], *d_scores.shape[-2:]), grid)


def _scores(q: Tensor, k: Tensor, b: Tensor | None, scale: float, is_causal: bool) -> Tensor:
    scores = scale * (q @ k.mT)  # [B, H, N, M]
    if b is not None:
        scores = scores + b
    if is_causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores


def _logsumexp(scores: Tensor) -> Tensor:
    """Over keys; +inf, with derivative zero, for a query that sees none."""
    if scores.shape[-1] == 0:
        return scores.new_full(scores.shape[:-1], torch.inf)
    blind = (scores == -torch.inf).all(-1)
    return torch.logsumexp(scores.masked_fill(blind[..., None], 0.0), -1).masked_fill(blind, torch.inf)


def _probabilities(q: Tensor, k: Tensor, b: Tensor | None, lse: Tensor, scale: float, is_causal: bool) -> Tensor:
    return torch.exp(_scores(q, k, b, scale, is_causal) - lse[..., None])


def _t_scores(q: Tensor, k: Tensor, t_q, t_k, t_b, scale: float):
    t_dot = _sum(_product(t_q, k.mT), _product(q, None if t_k is None else t_k.mT))
    return _sum(_scaled(t_dot, scale), t_b)


def _rowsum(p: Tensor, t_scores: Tensor | None) -> Tensor | None:
    return None if t_scores is None else (p * t_scores).sum(-1)


# A tangent that is None is zero: its products are left out.


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a @ b


def _times(a: Tensor | None, b: Tensor) -> Tensor | None:
    return None if a is None else a * b


def _scaled(a: Tensor | None, scale: float) -> Tensor | None:
    return None if a is None else scale * a


def _filled(a: Tensor | None, like: Tensor, count: int) -> Tensor:
    return like.new_zeros((count, *like.shape)) if a is None else a


def _count(*tangents: Tensor | None) -> int:
    return next(t.shape[0] for t in tangents if t is not None)
