"""Batches of images: augmented for training and for Hessians, plain for everything else.

A batch depends on the seed and its number only, not on the batches drawn before it. So every network sees the same
ones, they can be read again, and a study that was stopped goes on in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from alternet.analysis.training.data import ImageData, as_tensor
from alternet.analysis.training.recipe import Recipe, check_batch_size
from alternet.analysis.training.seeding import derived_seed, seeded

Batch = tuple[Tensor, Tensor]


class Batches(Sequence[Batch]):
    """Batch i holds the pictures ``order[i * batch_size : (i + 1) * batch_size]``, made anew whenever it is read.

    ``make(pictures, targets, i)`` turns them into (images float32 [B, 3, S, S], targets int64 [B] or float32
    [B, classes]), which are moved to ``device``.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Image.Image, int]],
        order: np.ndarray,
        batch_size: int,
        make: Callable[[list[Image.Image], list[int], int], Batch],
        device: str | torch.device,
    ) -> None:
        self.dataset, self.order, self.batch_size, self.make = dataset, order, batch_size, make
        self.device = torch.device(device)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        index %= len(self)
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pictures, targets = zip(*(self.dataset[i] for i in chosen), strict=True)
        images, labels = self.make(list(pictures), list(targets), index)
        return images.to(self.device), labels.to(self.device)


def eval_batches(
    data: ImageData,
    batch_size: int = 100,
    *,
    limit: int | None = None,
    seed: int | None = None,
    device: str | torch.device = "cpu",
) -> Batches:
    """The test set, or ``limit`` pictures spread evenly over it; targets int64 [B].

    In its own order, often class by class, or with a ``seed`` in a random one.
    """
    size = len(data.test)  # type: ignore[arg-type]
    order = np.linspace(0, size - 1, min(size, limit or size)).round().astype(int)
    if seed is not None:
        order = np.random.default_rng(derived_seed(seed, "test order")).permutation(order)

    def make(pictures: list[Image.Image], targets: list[int], number: int) -> Batch:
        return as_tensor(pictures, data), torch.tensor(targets)

    return Batches(data.test, order, batch_size, make, device)


def train_batches(
    data: ImageData, recipe: Recipe, *, seed: int, epoch: int, device: str | torch.device = "cpu"
) -> Batches:
    """The training set of one epoch, shuffled and augmented; a last batch that would be smaller is left out.

    Targets are float32 [B, classes]: mixed and smoothed.

    Raises:
        ValueError: the training set is smaller than a batch.
    """
    size = len(data.train)  # type: ignore[arg-type]
    if size < recipe.batch_size:
        raise ValueError(f"batch_size: got {recipe.batch_size}, expected at most {size}, the pictures there are")
    order = np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(size)
    return _augmented(data, recipe, order, recipe.batch_size, (seed, "augment", epoch), device)


def hessian_batches(
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    fraction: float = 0.1,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
) -> Batches:
    """Mini-batches of a ``fraction`` of the training set, augmented as in training, fixed by the seed.

    Targets are float32 [B, classes]. The pictures are drawn without replacement, so that two fractions of one seed
    share those of the smaller. The defaults are the paper's.

    Raises:
        ValueError: ``fraction`` is not in (0, 1], or does not fill one batch; ``batch_size`` is not even or below 2.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and at most 1")
    check_batch_size(batch_size)
    size = len(data.train)  # type: ignore[arg-type]
    order = np.random.default_rng(derived_seed(seed, "hessian")).permutation(size)[: round(fraction * size)]
    if len(order) < batch_size:
        raise ValueError(
            f"fraction: got {fraction}, which is {len(order)} of {size} pictures, "
            f"expected at least one mini-batch of {batch_size}"
        )
    return _augmented(data, recipe, order, batch_size, (seed, "hessian augment"), device)


def _augmented(
    data: ImageData,
    recipe: Recipe,
    order: np.ndarray,
    batch_size: int,
    key: tuple[int | str, ...],
    device: str | torch.device,
) -> Batches:
    augment = _augmentation(data, recipe)
    mix = Mixup(
        recipe.mixup,
        recipe.cutmix,
        prob=1.0 if recipe.mixup or recipe.cutmix else 0.0,
        label_smoothing=recipe.label_smoothing,
        num_classes=len(data.classes),
    )

    def make(pictures: list[Image.Image], targets: list[int], number: int) -> Batch:
        with seeded(*key, number):
            images = as_tensor([augment(picture) for picture in pictures], data)
            return mix(images, torch.tensor(targets))

    return Batches(data.train, order[: len(order) // batch_size * batch_size], batch_size, make, device)


def _augmentation(data: ImageData, recipe: Recipe) -> Callable[[Image.Image], Image.Image]:
    steps: list[Any] = []
    if recipe.crop_padding:
        steps.append(transforms.RandomCrop(data.image_size, padding=recipe.crop_padding))
    if data.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if recipe.rand_augment:
        fill = tuple(round(255 * value) for value in data.mean)
        constants = {"translate_const": int(0.45 * data.image_size), "img_mean": fill}  # as in timm's create_transform
        steps.append(rand_augment_transform(recipe.rand_augment, constants))
    return transforms.Compose(steps)
