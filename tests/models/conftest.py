"""Small AlterNets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import alternet  # noqa: F401 - registers the models

SMALL = {
    "num_classes": 5,
    "stem_pool": False,
    "window_size": 4,
    "widths": (8, 12, 16, 24),
    "num_heads": (1, 2, 2, 3),
    "head_dim": 8,
}


@pytest.fixture
def small() -> Callable[..., nn.Module]:
    """``small(name="alternet_18", **arguments)``: the network with a few channels, same weights every time."""

    def create(name: str = "alternet_18", **arguments: object) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return timm.create_model(name, **{**SMALL, **arguments})

    return create


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
