"""What ``kernels/triton_static.py`` compiles of window attention: a table, all tangents and all results."""

from __future__ import annotations

from typing import Any

import torch

from ..triton_launch import Launch, record
from ..triton_static import Case, Step
from . import triton as backend
from .triton_configs import DTYPES

__all__ = ["DTYPES", "SIZES", "STEPS", "VARIANTS", "is_used", "launches"]

SIZES = (64, 32)  # head sizes
VARIANTS = ("4 x 4", "7 x 7", "4 x 4, channels last", "7 x 7, channels last")
STEPS: dict[str, Step] = {}  # a window is one tile: no loop, every tensor is read once


def is_used(case: Case) -> bool:
    """TF32 is NVIDIA's."""
    return case.dtype != "tf32" or case.target.startswith("sm_")


def launches(case: Case) -> list[Launch]:
    """What the four maps launch in this case of the kernels of this folder: none for a map that has no tile."""
    window, channels_last = int(case.variant[0]), case.variant.endswith("channels last")
    B, heads, T, D, side = 8, 3, 2, case.size, 4 * window
    dtype = DTYPES[case.dtype]
    shape = (B, side, side, heads, D) if channels_last else (B, heads, D, side, side)

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x: list[Any] = [empty(*shape), empty(*shape), empty(*shape), empty(1, heads, 2 * window - 1, 2 * window - 1)]
    t_x: list[Any] = [empty(T, *t.shape) for t in x]
    out, t_out = x[2], t_x[2]
    parameters: dict[str, Any] = {
        "window_size": (window, window),
        "shift": (window // 2, window // 2),
        "scale": D**-0.5,
        "channels_last": channels_last,
    }
    needs = (True, True, True, True)
    with record(case.target, tf32=case.dtype == "tf32") as recorded:
        backend.forward(*x, **parameters)
        backend.tangent(*x, out, *t_x, **parameters)
        backend.backward(*x, out, out, **parameters, needs=needs)
        backend.backward_tangent(*x, out, out, *t_x, t_out, t_out, **parameters, needs=needs)
    return [launch for launch in recorded if launch.kernel.__name__.startswith("window_attention_")]
