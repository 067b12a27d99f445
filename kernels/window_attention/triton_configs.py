"""Launch configurations of the Triton kernels, as data: (map, tokens, head size, dtype class, target) -> tile or None.

No GPU was at hand: what decided is what the compiler said offline (``triton_static``, Triton 3.8, with a table, all
tangents and all results, the most that a kernel holds), not a timing: here is what does not spill, but for four
registers in second order of 7 x 7 at head size 64 on sm_90 (four or 16 warps spill 60 or more). What is not here runs
on attention's kernels, on windows cut by PyTorch.

A tile holds 16 or 64 tokens, as many windows as fit. The 16 tokens of a 4 x 4 window are what a matrix instruction
wants, and two warps hold all there is of them (four in the forward of sm_100: with two its compiler spills); 64 tokens
(one window of 7 x 7) take eight, or the four with twice the registers of gfx942. On sm_80 operands of products are in
registers, on sm_90 and sm_100 in shared memory: that is why second order has no tile of 64 there. float32 without TF32
multiplies with FFMA, whose operands are whole rows in registers: tiles of 16, on eight warps.
"""

from __future__ import annotations

import torch

from ..triton_launch import Config

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "tf32": torch.float32}

_MAPS = ("forward", "tangent", "backward", "backward_tangent")


def config(name: str, tokens: int, head_size: int, dtype: torch.dtype, target: str) -> Config | None:
    """The tile of map ``name`` for windows of ``tokens``, None where there is none."""
    block = 16 if tokens <= 16 else 64
    if tokens > block:
        return None
    tables = _FLOAT32 if dtype == torch.float32 else _16_BIT
    column = {"sm_86": "sm_80", "gfx90a": "gfx942"}.get(target, target)  # the same matrix instructions
    num_warps, widest = tables[column].get(block, {}).get(name, (0, 0))
    return Config(block, block, num_warps, 1) if head_size <= widest else None


# target -> tokens of a tile -> map -> (warps, the largest head size)
_16_BIT = {
    "sm_80": {
        16: dict.fromkeys(_MAPS, (2, 64)),
        64: {"forward": (8, 64), "tangent": (8, 32), "backward": (8, 32)},
    },
    "sm_90": {16: dict.fromkeys(_MAPS, (2, 64)), 64: dict.fromkeys(_MAPS, (8, 64))},
    "sm_100": {16: {**dict.fromkeys(_MAPS, (2, 64)), "forward": (4, 64)}, 64: dict.fromkeys(_MAPS, (8, 64))},
    "gfx942": {16: dict.fromkeys(_MAPS, (2, 64)), 64: dict.fromkeys(_MAPS, (4, 64))},
}
_NVIDIA_FLOAT32 = {16: {**dict.fromkeys(_MAPS, (8, 64)), "backward_tangent": (8, 32)}}
_FLOAT32 = {
    "sm_80": _NVIDIA_FLOAT32,
    "sm_90": _NVIDIA_FLOAT32,
    "sm_100": _NVIDIA_FLOAT32,
    "gfx942": {16: dict.fromkeys(_MAPS, (4, 64))},
}
