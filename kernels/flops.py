"""The matrix products of operators, for ``torch.utils.flop_counter``: of ops that it does not know it counts nothing.

As there, a product of [n, k] and [k, m] is 2 n k m operations, whatever masks hide, and element-wise work is none. What
counts is what a map computes, also what it computes anew: attention's scores are in each of its four maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import register_flop_formula


class Call(NamedTuple):
    """What a formula is told of the call of a map.

    map: its name.
    x: the shapes of the inputs, empty where one is missing.
    needs: which gradients are computed, of ``backward`` and ``backward_tangent``.
    t_x, t_grad: which of the inputs, and whether the cotangent, have tangents.
    tangents: T.
    parameters: the operator's, by name.
    """

    map: str
    x: Sequence[Sequence[int]]
    needs: Sequence[bool]
    t_x: Sequence[bool]
    t_grad: bool
    tangents: int
    parameters: dict[str, Any]


Formula = Callable[[Call], int]


def register(op: OpOverloadPacket, count: Callable[[Sequence[Any]], int]) -> None:
    """``count(args)`` is of an op's arguments, shapes in place of tensors."""
    register_flop_formula(op)(lambda *args, out_shape=None: count(args))


def of_attention(call: Call, by_width: int, by_value_width: int) -> int:
    """Of a map of any attention whose first inputs are query, key and value.

    ``by_width`` is a product of pairs of tokens with a head's features of query and key, ``by_value_width`` of value.
    """
    if call.map == "forward":
        return by_width + by_value_width  # S, PV
    needs, T, t_grad = call.needs, call.tangents, call.t_grad
    if call.map == "backward":
        return by_width * (1 + needs[0] + needs[1]) + by_value_width * (_of_scores(needs) + needs[2])
    t_query, t_key, t_value, *t_added = call.t_x
    moves = t_query or t_key or any(t_added)  # the scores
    if call.map == "tangent":
        return by_width * (1 + T * (t_query + t_key)) + by_value_width * T * (moves + t_value)
    wide = 1 + T * (t_query + t_key + needs[0] * (1 + t_key) + needs[1] * (1 + t_query))
    value_wide = needs[2] * T * (moves + t_grad)
    if _of_scores(needs):
        value_wide += moves + T * (t_grad + t_value)
    return by_width * wide + by_value_width * value_wide


def of_layer(call: Call, each: int) -> int:
    """Of a map of a layer whose first inputs are x and W: the products of x and W, of g and W, and of g and x.

    ``each`` is any of the three.
    """
    if call.map == "forward":
        return each
    if call.map == "backward":
        return each * (call.needs[0] + call.needs[1])
    t_x, t_weight = call.t_x[:2]
    if call.map == "tangent":
        return each * call.tangents * (t_x + t_weight)
    return each * call.tangents * (call.needs[0] * (call.t_grad + t_weight) + call.needs[1] * (call.t_grad + t_x))


def _of_scores(needs: Sequence[bool]) -> bool:
    """Whether a gradient of the scores is needed."""
    return needs[0] or needs[1] or any(needs[3:])
