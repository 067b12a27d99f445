"""What is compared: normalisations, activations and losses with their derivatives, this library against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from alternet import kernels

from . import suite
from .tasks import TASKS, Function, prepared

IMPLEMENTATIONS = ("alternet", "eager")


def layer_norm(name: str) -> Function:
    if name == "alternet":
        return kernels.layer_norm
    return lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias)


def gelu(name: str) -> Function:
    return kernels.gelu if name == "alternet" else F.gelu


def _cross_entropy(name: str) -> Function:
    target = torch.randint(0, 1000, (512,), generator=torch.Generator().manual_seed(1))
    f = kernels.cross_entropy if name == "alternet" else F.cross_entropy
    return lambda logits: f(logits, target)


def batch_norm_relu(name: str) -> Function:
    if name == "alternet":
        return lambda x, weight, bias: kernels.batch_norm(x, None, None, weight, bias, True, activation="relu")
    return lambda x, weight, bias: F.relu(F.batch_norm(x, None, None, weight, bias, True))


# workload -> (the function of an implementation, shapes of its inputs)
WORKLOADS: dict[str, tuple[Callable[[str], Function], tuple[tuple[int, ...], ...]]] = {
    "LayerNorm 4112 x 192": (layer_norm, ((4112, 192), (192,), (192,))),
    "LayerNorm 4112 x 768": (layer_norm, ((4112, 768), (768,), (768,))),
    "GELU 4112 x 192": (gelu, ((4112, 192),)),
    "GELU 4112 x 768": (gelu, ((4112, 768),)),
    "cross-entropy 512 x 1000": (_cross_entropy, ((512, 1000),)),
    "BatchNorm + ReLU 32 x 64 x 32 x 32": (batch_norm_relu, ((32, 64, 32, 32), (64,), (64,))),
}


class Cell(suite.Cell):
    """One measurement: a workload (its shape too), a task and an implementation."""

    def prepare(self) -> Callable[[], object]:
        make, shapes = WORKLOADS[self.shape]
        return prepared(self.task, make(self.implementation), shapes)


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in WORKLOADS for task in TASKS for name in IMPLEMENTATIONS]


SUITE = suite.Suite(shapes="operator", peers={"eager": "eager"}, cells=cells)
