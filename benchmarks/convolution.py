"""What is compared: convolutions with their derivatives, this library against PyTorch, where they differ and where not.

Images want no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from alternet import kernels

from . import suite
from .tasks import TASKS, Function, prepared

IMPLEMENTATIONS = ("alternet", "PyTorch")


class Layer(NamedTuple):
    """A convolution of a network; the padding is half a window."""

    x: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: int = 1
    groups: int = 1
    of_images: bool = False


LAYERS = {
    "ResNet's first: 4 x 3 x 224 x 224, 7 x 7": Layer((4, 3, 224, 224), (64, 3, 7, 7), 2, of_images=True),
    "bottleneck: 4 x 256 x 14 x 14, 1 x 1 to 1024": Layer((4, 256, 14, 14), (1024, 256, 1, 1)),
    "strided: 16 x 64 x 32 x 32, 3 x 3 to 128": Layer((16, 64, 32, 32), (128, 64, 3, 3), 2),
    "depthwise: 4 x 384 x 14 x 14, 7 x 7": Layer((4, 384, 14, 14), (384, 1, 7, 7), groups=384),
    "small maps: 16 x 512 x 2 x 2, 3 x 3": Layer((16, 512, 2, 2), (512, 512, 3, 3)),
    "dense, left to PyTorch by second_order(): 16 x 64 x 16 x 16, 3 x 3": Layer((16, 64, 16, 16), (64, 64, 3, 3)),
}


class Cell(suite.Cell):
    """One measurement: a layer, a task and an implementation."""

    def prepare(self) -> Callable[[], object]:
        layer = LAYERS[self.shape]
        shapes = [layer.weight] if layer.of_images else [layer.x, layer.weight]
        return prepared(self.task, _function(self.implementation, layer), shapes)


def _function(name: str, layer: Layer) -> Function:
    convolve = kernels.convolution if name == "alternet" else F.conv2d
    options = (None, layer.stride, layer.weight[-1] // 2, 1, layer.groups)
    if layer.of_images:
        images = torch.randn(layer.x, generator=torch.Generator().manual_seed(1))
        return lambda weight: convolve(images, weight, *options)
    return lambda x, weight: convolve(x, weight, *options)


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in LAYERS for task in TASKS for name in IMPLEMENTATIONS]


SUITE = suite.Suite(shapes="layer", peers={"PyTorch": "PyTorch"}, cells=cells)
