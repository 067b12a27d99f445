"""What is compared: attention's derivatives, this library against PyTorch, on one set of shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from alternet.kernels import attention

from . import suite
from .tasks import FIRST_ORDER, TASKS, Function, prepared


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The fastest plain composition we know: the scale goes into the small factor."""
    return ((query * query.shape[-1] ** -0.5) @ key.mT).softmax(-1) @ value


IMPLEMENTATIONS: dict[str, Function] = {
    "alternet": attention,
    "eager": eager,
    "sdpa": F.scaled_dot_product_attention,
}


SHAPES = {  # batch times heads, tokens, head size
    "ViT-Ti at 32 px: 48 x 257 x 64": (48, 257, 64),
    "windows of 7: 256 x 49 x 32": (256, 49, 32),
    "long: 4 x 4096 x 64": (4, 4096, 64),
}


class Cell(suite.Cell):
    """One measurement: a shape, a task and an implementation."""

    def prepare(self) -> Callable[[], object]:
        return prepared(self.task, IMPLEMENTATIONS[self.implementation], [(1, *SHAPES[self.shape])] * 3)


def implementations(task: str) -> list[str]:
    return [name for name in IMPLEMENTATIONS if name != "sdpa" or task in FIRST_ORDER]


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in SHAPES for task in TASKS for name in implementations(task)]


SUITE = suite.Suite(shapes="heads x tokens x size", peers={"eager": "eager", "sdpa": "SDPA"}, cells=cells)
