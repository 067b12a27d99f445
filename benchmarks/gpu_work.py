"""What ``benchmarks.gpu`` compares: every operator that has Triton kernels, at sizes of networks on a GPU.

A *task* is what a user runs of an operator inside a network (``tasks.py``): a cotangent comes from behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alternet.kernels import attention, cross_entropy, feature_spectrum

from . import spectrum, table
from .attention import eager
from .peers import packages
from .pointwise import batch_norm_relu, gelu, layer_norm
from .tasks import FIRST_ORDER, TASKS, Function

Shape = tuple[int, ...]


class Built(NamedTuple):
    """Shapes of the inputs, and implementations by name: ``alternet``, ``eager``, then peers of some tasks."""

    shapes: tuple[Shape, ...]
    functions: dict[str, Function]


Build = Callable[[str], Built]  # of the device


@dataclass(frozen=True)
class Workload:
    """``checked`` is the same kernels at a size of which float64 eager has room."""

    timed: Build
    checked: Build
    tasks: tuple[str, ...] = tuple(TASKS)


def _attention(*shape: int) -> Build:
    functions: dict[str, Function] = {"alternet": attention, "eager": eager, "SDPA": F.scaled_dot_product_attention}
    functions |= {name: package.call for name, package in packages().items() if name.startswith("jvp-flash")}
    return lambda _: Built((shape,) * 3, functions)


def _with_table(shape: table.Shape) -> Build:
    return lambda device: Built(shape.shapes(), shape.functions(device))


def _row_wise(make: Callable[[str], Function], *shapes: Shape) -> Build:
    return lambda _: Built(shapes, {name: make(name) for name in ("alternet", "eager")})


def _cross_entropy(rows: int, classes: int) -> Build:
    def build(device: str) -> Built:
        target = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(1)).to(device)
        functions: dict[str, Function] = {
            "alternet": lambda logits: cross_entropy(logits, target),
            "eager": lambda logits: F.cross_entropy(logits, target),
        }
        return Built(((rows, classes),), functions)

    return build


def _feature_spectrum(*shape: int) -> Build:
    def half_diagonal(x: Tensor) -> Tensor:
        return spectrum.fft2(x.to(torch.promote_types(x.dtype, torch.float32)))[: shape[-1] // 2 + 1]

    return lambda _: Built((shape,), {"alternet": lambda x: feature_spectrum(x).log_amplitude, "eager": half_diagonal})


def works(task: str, built: Built) -> dict[str, Function]:
    """The implementations that can do this task: the peers have first derivatives only."""
    return {name: f for name, f in built.functions.items() if name in ("alternet", "eager") or task in FIRST_ORDER}


WORKLOADS = {
    "attention, ViT-B/16 at 224 px: 64 x 12 x 197 x 64": Workload(
        _attention(64, 12, 197, 64), _attention(1, 12, 197, 64)
    ),
    "attention, ViT-L/16 at 384 px: 16 x 16 x 577 x 64": Workload(
        _attention(16, 16, 577, 64), _attention(1, 16, 577, 64)
    ),
    "attention, windows of 7: 2048 x 6 x 49 x 32": Workload(_attention(2048, 6, 49, 32), _attention(4, 6, 49, 32)),
    "attention, 2 x 16 x 4096 x 64": Workload(_attention(2, 16, 4096, 64), _attention(1, 1, 4096, 64)),
    "attention, 1 x 8 x 16384 x 64": Workload(_attention(1, 8, 16384, 64), _attention(1, 1, 8192, 64)),
    "attention, table per head: 64 x 12 x 196 x 64": Workload(
        _with_table(table.Shape(64, 12, 64, side=14, window=14)),
        _with_table(table.Shape(1, 12, 64, side=14, window=14)),
    ),
    "window_attention of 4: 128 x (3 x 64) x 32 x 32": Workload(
        _with_table(table.Shape(128, 3, 64, side=32, window=4)), _with_table(table.Shape(2, 3, 64, side=32, window=4))
    ),
    "window_attention of 7: 64 x (3 x 32) x 56 x 56": Workload(
        _with_table(table.Shape(64, 3, 32, side=56, window=7)), _with_table(table.Shape(1, 3, 32, side=56, window=7))
    ),
    "layer_norm, ViT-B/16: 12608 x 768": Workload(
        _row_wise(layer_norm, (12608, 768), (768,), (768,)), _row_wise(layer_norm, (197, 768), (768,), (768,))
    ),
    "gelu, ViT-B/16: 12608 x 3072": Workload(_row_wise(gelu, (12608, 3072)), _row_wise(gelu, (197, 3072))),
    "batch_norm + relu, ResNet-50: 64 x 256 x 56 x 56": Workload(
        _row_wise(batch_norm_relu, (64, 256, 56, 56), (256,), (256,)),
        _row_wise(batch_norm_relu, (2, 256, 56, 56), (256,), (256,)),
    ),
    "cross_entropy: 4096 x 1000": Workload(_cross_entropy(4096, 1000), _cross_entropy(64, 1000)),
    "feature_spectrum, ResNet-50: 64 x 256 x 56 x 56": Workload(
        _feature_spectrum(64, 256, 56, 56), _feature_spectrum(2, 256, 56, 56), ("forward",)
    ),
}


def _toy(build: Build, tasks: tuple[str, ...] = tuple(TASKS)) -> Workload:
    return Workload(build, build, tasks)


TOY = {
    "attention": _toy(_attention(1, 1, 17, 16)),
    "attention with a table": _toy(_with_table(table.Shape(1, 1, 16, side=3, window=3))),
    "window_attention": _toy(_with_table(table.Shape(1, 1, 16, side=4, window=2))),
    "layer_norm": _toy(_row_wise(layer_norm, (3, 8), (8,), (8,))),
    "gelu": _toy(_row_wise(gelu, (3, 8))),
    "batch_norm + relu": _toy(_row_wise(batch_norm_relu, (2, 3, 2, 2), (3,), (3,))),
    "cross_entropy": _toy(_cross_entropy(3, 5)),
    "feature_spectrum": _toy(_feature_spectrum(1, 2, 4, 4), ("forward",)),
}
