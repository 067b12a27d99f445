"""What ``kernels/triton_static.py`` compiles of the feature spectrum: its one kernel, in both layouts of a map."""

from __future__ import annotations

import torch

from ..triton_launch import Launch, record
from ..triton_static import Case, Step
from . import triton as backend

SIZES = (56, 14)  # of a square map
DTYPES = ("float16", "float32", "bfloat16")
VARIANTS = ("contiguous", "channels_last")
STEPS: dict[str, Step] = {}


def is_used(case: Case) -> bool:
    return True


def launches(case: Case) -> list[Launch]:
    layout = torch.channels_last if case.variant == "channels_last" else torch.contiguous_format
    maps = torch.empty(32, 256, case.size, case.size, dtype=getattr(torch, case.dtype), device="meta")
    with record(case.target) as recorded:
        backend.forward(maps.contiguous(memory_format=layout), per_image=True)
    return recorded
