"""What ``triton_static`` compiles of the row-wise operators: every map with two tangents, from their test cases."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from .triton_launch import Launch, record
from .triton_static import Case, Step

SIZES = (768,)  # the width of a ViT-B
DTYPES = ("float16", "float32", "bfloat16")
VARIANTS = ("",)
ROWS = 4096
STEPS: dict[str, Step] = {}  # none multiplies matrices


def is_used(case: Case) -> bool:
    return True


def launches(case: Case) -> list[Launch]:
    """All inputs, two tangents, every result."""
    modules = (
        importlib.import_module(f"..{case.operator}.{name}", __name__) for name in ("triton", "reference", "cases")
    )
    maps, reference, given = modules
    signature = given.operator.signature
    parameters = next(iter(given.CASES.values()))[1]
    x = [_meta(t) for t in given.inputs(1, ROWS, case.size, dtype=getattr(torch, case.dtype))]
    needs = tuple(t is not None and n not in signature.constants for n, t in zip(signature.inputs, x, strict=True))
    y, *saved = reference.forward(*x, **parameters)
    t_x = [t if need else None for need, t in zip(needs, _tangents(x), strict=True)]
    t_y, *t_saved = _tangents([y, *saved])
    with record(case.target) as recorded:
        maps.forward(*x, **parameters)
        maps.tangent(*x, y, *saved, *t_x, **parameters)
        maps.backward(*x, y, *saved, y, **parameters, needs=needs)
        maps.backward_tangent(*x, y, *saved, y, *t_x, t_y, *t_saved, t_y, **parameters, needs=needs)
    return recorded


def _meta(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.to("meta")


def _tangents(tensors: list[Any]) -> list[Any]:
    return [None if t is None else t.new_empty((2, *t.shape)) for t in tensors]
