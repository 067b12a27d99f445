"""Compiles every launchable kernel of window attention for GPUs that need not be there.

As ``attention/triton_static.py``: the backend's own maps are called with tensors on the meta device and their launches
recorded, so that what is compiled is what would run. Needs Triton and the tools in its wheel, no GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..triton_launch import Launch, record
from . import triton as backend
from .triton_configs import DTYPES


class Case(NamedTuple):
    """One call of the four maps, D = Dv, a table, all tangents and all results: the most that a kernel holds."""

    target: str
    dtype: str
    window: int
    head_size: int
    channels_last: bool


def launches(case: Case) -> list[Launch]:
    """What the four maps launch in this case of the kernels of this folder: none for a map that has no tile."""
    B, heads, T, D, side = 8, 3, 2, case.head_size, 4 * case.window
    dtype = DTYPES[case.dtype]
    shape = (B, side, side, heads, D) if case.channels_last else (B, heads, D, side, side)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x: list[Any] = [
        empty(*shape),
        empty(*shape),
        empty(*shape),
        empty(1, heads, 2 * case.window - 1, 2 * case.window - 1),
    ]
    t_x: list[Any] = [empty(T, *t.shape) for t in x]
    out, t_out = x[2], t_x[2]
    parameters: dict[str, Any] = {
        "window_size": (case.window, case.window),
        "shift": (case.window // 2, case.window // 2),
        "scale": D**-0.5,
        "channels_last": case.channels_last,
    }
    needs = (True, True, True, True)
    with record(case.target, tf32=case.dtype == "tf32") as recorded:
        backend.forward(*x, **parameters)
        backend.tangent(*[*x, out, *t_x], **parameters)
        backend.backward(*[*x, out, out], **parameters, needs=needs)
        backend.backward_tangent(*[*x, out, out, *t_x, t_out, t_out], **parameters, needs=needs)
    return [launch for launch in recorded if launch.kernel.__name__.startswith("window_attention_")]
