"""Which images of a data set are whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from alternet.analysis.curvature.evaluation import Evaluation, check_mean, check_separable
from alternet.analysis.curvature.micro_batches import Batch, micro_batches
from alternet.analysis.distributed.ranks import Ranks
from alternet.analysis.training.seeding import seeded


@dataclass(frozen=True)
class Share:
    """What one rank has of the data.

    batches: its own.
    cut: one of those that are cut, whole; None where every batch belongs to one rank.
    """

    batches: list[Batch]
    cut: Batch | None = None

    @property
    def images(self) -> int:
        """How many there are in its batches."""
        return sum(len(images) for images, _ in self.batches)


def own_share(data: Batch | Iterable[Batch], ranks: Ranks, seed: int = 0) -> Share:
    """This rank's share of ``data``, which is the same on every rank: one batch, or batches.

    What they draw from the global generators is fixed by ``seed``: else every rank would have a share of other data.

    Batches are dealt whole, batch i to rank i mod ranks. Where there are fewer batches than ranks, each is cut into
    runs of images, so that no rank is idle.

    Raises:
        ValueError: fewer images than ranks, or no batches.
    """
    with seeded(seed, "data"):
        batches = _sequence(data)
    if len(batches) == 0:
        raise ValueError("data: got no batches, expected at least one (images, targets)")
    if len(batches) >= ranks.size:
        return Share([_read(batches, i, seed) for i in range(ranks.rank, len(batches), ranks.size)])
    whole = [_read(batches, i, seed) for i in range(len(batches))]
    parts = [_cut(batch, ranks) for batch in whole]
    share = Share([part for part in parts if len(part[0])], max(whole, key=lambda batch: len(batch[0])))
    if not all(ranks.objects(share.images)):
        count = sum(len(images) for images, _ in whole)
        raise ValueError(f"data: got {count} images for {ranks.size} ranks, expected at least one for each")
    return share


def check_cut(evaluation: Evaluation, batch: Batch) -> None:
    """ValueError unless the matrix of ``batch`` is the mean of those of its images, judged by the loss of two of them.

    ``evaluation`` has the network and how it is evaluated.
    """
    check_separable(evaluation)
    images, targets = batch
    pieces = micro_batches((images[:2], targets[:2]), 1, next(evaluation.model.parameters()).dtype)
    if len(pieces) == 2:
        check_mean([replace(evaluation, images=x, targets=y) for x, y in pieces])


def _sequence(data: Any) -> Sequence[Batch]:
    """What can be read at an index is read where it is needed; anything else is drawn whole, once."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return [(data[0], data[1])]
    return data if isinstance(data, Sequence) else list(data)


def _read(batches: Sequence[Batch], number: int, seed: int) -> Batch:
    """One batch, the same whichever were read before it."""
    with seeded(seed, "data", number):
        return batches[number]


def _cut(batch: Batch, ranks: Ranks) -> Batch:
    images, targets = (part.tensor_split(ranks.size)[ranks.rank] for part in batch)
    return images, targets
