"""The data of a matrix: batches drawn and copied once, in pieces that bound the memory of a product."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images and targets


def micro_batches(data: Batch | Iterable[Batch], size: int | None, dtype: torch.dtype) -> list[Batch]:
    """Copies of one batch or several, none with more than ``size`` images; floating-point tensors as ``dtype``.

    Drawn once, so that random augmentation is the same in every product.

    Raises:
        TypeError: ``data`` is neither a pair of tensors nor pairs of them; ``size`` is no whole number.
        ValueError: no images; images and targets differ in number; ``size`` is less than one image.
    """
    _check_size(size)
    single = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    if not isinstance(data, Iterable):
        raise TypeError(f"data: expected (images, targets) or batches of them, got {type(data).__name__}")
    batches: list[Any] = [data] if single else list(data)
    if not batches:
        raise ValueError("data: got no batches, expected at least one (images, targets)")
    with torch.inference_mode(False):
        return [_own_copy(piece, dtype) for batch in batches for piece in _pieces(batch, size)]


def _check_size(size: Any) -> None:
    if size is None:
        return
    if not isinstance(size, Integral):
        raise TypeError(f"micro_batch: expected a whole number of images, got {size!r}")
    if size < 1:
        raise ValueError(f"micro_batch: expected at least one image, got {size}")


def _pieces(batch: Any, size: int | None) -> Iterable[Batch]:
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
        raise TypeError(f"data: expected (images, targets) or batches of them, got {type(batch).__name__}")
    images, targets = batch
    if len(images) == 0:
        raise ValueError("data: a batch has no images")
    if size is None:
        return [(images, targets)]
    if targets.dim() == 0 or len(targets) != len(images):
        raise ValueError(f"data: {len(images)} images, but targets {list(targets.shape)}; micro_batch divides both")
    return zip(images.split(size), targets.split(size), strict=True)


def _own_copy(batch: Batch, dtype: torch.dtype) -> Batch:
    images, targets = (t.detach().to(dtype if t.is_floating_point() else t.dtype, copy=True) for t in batch)
    return images, targets
