"""Networks by name: any of timm's, and the poster's three, sized for small images and two processor cores."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

import alternet  # noqa: F401 (registers AlterNet with timm)
from alternet.analysis.training.batches import eval_batches
from alternet.analysis.training.checkpoints import load_weights
from alternet.analysis.training.data import ImageData
from alternet.analysis.training.seeding import seeded

LABELS = {"resnet": "ResNet", "vit": "ViT", "alternet": "AlterNet"}


@dataclass(frozen=True)
class Network:
    """A timm network: its registered ``model`` name and the ``arguments`` of ``timm.create_model`` (JSON values)."""

    name: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self, *, seed: int = 0, checkpoint: str | os.PathLike[str] | None = None, **arguments: Any) -> nn.Module:
        """The network with fresh weights, the same for the same seed, or those of ``checkpoint``; in eval mode.

        Further ``arguments`` go to timm beside the network's own.

        Raises:
            ValueError: timm does not know the model, or it does not take the arguments; see also ``load_weights``.
        """
        if not timm.is_model(self.model):
            raise ValueError(f"model: timm knows no {self.model!r}; timm.list_models() has the names")
        with seeded(seed, "weights"):
            try:
                model = timm.create_model(self.model, **self.arguments, **arguments)
            except (TypeError, AttributeError, AssertionError, ArithmeticError, LookupError, RuntimeError) as error:
                raise ValueError(f"model: {self.model} could not be built with {self.arguments}: {error}") from error
        if checkpoint is not None:
            load_weights(model, checkpoint)
        return model.eval()

    def summary(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def check_pictures(model: nn.Module, data: ImageData) -> Any:
    """What ``model``, in eval mode, gives for one picture of ``data``. Raises ValueError where it does not take it."""
    images, _ = eval_batches(data, 1, limit=1, device=next(model.parameters()).device)[0]
    try:
        with torch.no_grad():
            return model(images)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        size = f"{data.image_size} x {data.image_size}"
        raise ValueError(f"model: {type(model).__name__} does not take pictures of {size} pixels: {error}") from error


def check_fit(model: nn.Module, data: ImageData) -> None:
    """ValueError unless ``model``, in eval mode, gives for a picture of ``data`` a number for each of its classes."""
    output = check_pictures(model, data)
    found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    expected = [1, len(data.classes)]
    if found != expected:
        raise ValueError(f"model: {type(model).__name__} gives {found} for a picture, expected {expected}, the classes")


def poster_networks(image_size: int, num_classes: int) -> tuple[Network, Network, Network]:
    """A ResNet, a ViT and an AlterNet of 0.3 to 0.4 million parameters each.

    ResNet and AlterNet are the same pre-activation network without and with attention blocks. The ViT pools its patch
    tokens (no class token) and starts from Xavier weights, both of which learn faster in few updates. Images of more
    than 96 pixels get the ImageNet stem, ImageNet's windows, and larger patches.

    Raises:
        ValueError: no patch size cuts ``image_size`` into a sensible grid (it is prime, say).
    """
    large = image_size > 96
    convolutional = {
        "num_classes": num_classes,
        "img_size": image_size,
        "stem_pool": large,
        "window_size": 7 if large else 4,
        "widths": [12, 24, 48, 96],
        "num_heads": [3, 6, 12, 24],
        "head_dim": 12,  # as much narrower than the paper's as the widths are
    }
    transformer = {
        "num_classes": num_classes,
        "img_size": image_size,
        "patch_size": _patch_size(image_size, grid=14 if large else 8),
        "embed_dim": 64,
        "depth": 6,
        "num_heads": 4,
        "class_token": False,
        "global_pool": "avg",
        "weight_init": "moco",
    }
    return (
        Network("resnet", "alternet_18", {**convolutional, "msa_depths": [0, 0, 0, 0]}),
        Network("vit", "vit_tiny_patch16_224", transformer),
        Network("alternet", "alternet_18", {**convolutional, "msa_depths": [0, 1, 1, 1]}),
    )


def _patch_size(image_size: int, grid: int) -> int:
    """The divisor of ``image_size`` that cuts it into a grid nearest to ``grid``."""
    divisors = [size for size in range(1, image_size + 1) if image_size % size == 0]
    best = min(divisors, key=lambda size: abs(image_size / size - grid))
    if not grid / 2 <= image_size / best <= 2 * grid:
        raise ValueError(f"image_size: no patch size cuts {image_size} pixels into about {grid}; resize the images")
    return best
