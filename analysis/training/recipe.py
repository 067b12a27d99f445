"""How networks are trained: the paper's recipe, and a short one for minutes on a processor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; the defaults are the paper's for CIFAR, for CNNs and ViTs alike.

    ``epochs`` counts the warm-up too: 5 of linear warm-up, then 300 of cosine. ``crop_padding`` is in pixels;
    ``rand_augment`` is timm's notation, "" for none; ``mixup`` and ``cutmix`` are the α of their Beta distributions,
    0 for none, and where both are wanted every batch gets one of them. Whether images are flipped is the data set's
    decision (``ImageData.flip``).

    Raises:
        ValueError: a setting out of its range.
    """

    epochs: int = 305
    warmup_epochs: int = 5
    batch_size: int = 96
    learning_rate: float = 1.25e-4
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    label_smoothing: float = 0.1
    mixup: float = 1.0
    cutmix: float = 0.8
    rand_augment: str = "rand-m9-n2-mstd1.0"
    crop_padding: int = 4
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs < self.epochs, f"0 to {self.epochs - 1}")
        check_batch_size(self.batch_size)
        _check("learning_rate", self.learning_rate, self.learning_rate > 0, "more than 0")
        _check("clip_norm", self.clip_norm, self.clip_norm > 0, "more than 0")
        for name in ("weight_decay", "mixup", "cutmix", "crop_padding"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in ("label_smoothing", "drop_path"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "at least 0 and less than 1")

    def changed(self, **settings: Any) -> Recipe:
        """This recipe with other settings; those that are None stay as they are."""
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if value is not None})


def check_batch_size(size: int, name: str = "batch_size") -> None:
    """ValueError for argument ``name`` unless ``size`` is even and 2 or more."""
    _check(name, size, size >= 2 and size % 2 == 0, "an even number (mixup pairs the images of a batch)")


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


PAPER = Recipe()

# For minutes on a processor: few epochs need a larger step and smaller batches, and do not outlive strong augmentation.
SHORT = Recipe(
    epochs=10,
    warmup_epochs=1,
    batch_size=32,
    learning_rate=2e-3,
    mixup=0.0,
    cutmix=0.0,
    rand_augment="",
    crop_padding=2,
)

RECIPES = {"short": SHORT, "paper": PAPER}
