"""What is compared: the half-diagonal log amplitudes of maps, from the maps to the mean over images and channels.

``alternet`` gives the variance of the maps too, which its peers do not. One read of the maps, their sum, is what no
implementation can beat while they are not in a cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alternet.kernels import feature_spectrum

from . import suite


def fft2(x: Tensor) -> Tensor:
    """As in the authors' notebook."""
    return (torch.fft.fft2(x).abs() + 1e-6).log().mean((0, 1)).diagonal()


def product(x: Tensor) -> Tensor:
    """One matrix product with the cosines and sines of the half-diagonal."""
    side = x.shape[-1]
    steps = torch.arange(side)[:, None] + torch.arange(side)
    phases = 2 * torch.pi / side * torch.outer(steps.flatten(), torch.arange(side // 2 + 1))
    waves = torch.cat([phases.cos(), phases.sin()], 1).to(x)
    real, imaginary = (x.flatten(2) @ waves).chunk(2, -1)
    return (torch.hypot(real, imaginary) + 1e-6).log().mean((0, 1))


IMPLEMENTATIONS: dict[str, Callable[[Tensor], object]] = {
    "alternet": feature_spectrum,
    "fft2": fft2,
    "product": product,
    "read": torch.sum,
}
TASKS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = {  # images, channels, height and width
    "ResNet-50, stage 1: 32 x 256 x 56 x 56": (32, 256, 56, 56),
    "ViT-Ti: 32 x 192 x 14 x 14": (32, 192, 14, 14),
}


class Cell(suite.Cell):
    """One measurement: a shape, a memory format and an implementation."""

    def prepare(self) -> Callable[[], object]:
        x = torch.randn(SHAPES[self.shape], generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=TASKS[self.task])
        return lambda: IMPLEMENTATIONS[self.implementation](x)


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in SHAPES for task in TASKS for name in IMPLEMENTATIONS]


SUITE = suite.Suite(
    shapes="images x channels x height x width",
    peers={"fft2": "fft2", "product": "a matrix product", "read": "one read"},
    cells=cells,
)
