"""Which images of a data set are whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from alternet.analysis.distributed.ranks import Ranks

Batch = tuple[Tensor, Tensor]  # images and targets


def own_batches(data: Batch | Iterable[Batch], ranks: Ranks) -> list[Batch]:
    """This rank's share of ``data``, which is the same on every rank: one batch, or batches.

    Batches are dealt whole, batch i to rank i mod ranks. Where there are fewer batches than ranks, each is cut into
    runs of images, so that no rank is idle.

    Raises:
        ValueError: fewer images than ranks, or no batches.
    """
    batches = _sequence(data)
    if len(batches) == 0:
        raise ValueError("data: got no batches, expected at least one (images, targets)")
    if len(batches) >= ranks.size:
        return [batches[i] for i in range(ranks.rank, len(batches), ranks.size)]
    cut = [_cut(*batches[i], ranks) for i in range(len(batches))]
    own = [batch for batch in cut if len(batch[0])]
    if not all(ranks.objects(bool(own))):
        count = sum(len(batches[i][0]) for i in range(len(batches)))
        raise ValueError(f"data: got {count} images for {ranks.size} ranks, expected at least one for each")
    return own


def _sequence(data: Any) -> Sequence[Batch]:
    """What can be read at an index is read where it is needed; anything else is drawn whole, once."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return [(data[0], data[1])]
    return data if isinstance(data, Sequence) else list(data)


def _cut(images: Tensor, targets: Tensor, ranks: Ranks) -> Batch:
    return images.tensor_split(ranks.size)[ranks.rank], targets.tensor_split(ranks.size)[ranks.rank]
