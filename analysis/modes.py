"""How networks are run to be measured: in eval mode, on images that are brought to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in, also where they differed."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def output_of(model: nn.Module, images: Tensor) -> Any:
    """What ``model`` gives for ``images``, on its device and in its dtype."""
    weight = next(model.parameters())
    return model(images.to(weight.device, weight.dtype))
