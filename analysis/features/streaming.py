"""Statistics of the residual stream, averaged over a data set in one pass that can be stopped and taken up again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.features.taps import Tap, observe, taps
from alternet.analysis.journal import START_AGAIN, Journal

KIND = "alternet feature sums"
COLUMNS = ("data", "images", "shapes", "totals")


class Statistic(Protocol):
    """A quantity of single feature maps whose mean over images and channels is wanted at every tap.

    Its ``repr`` must tell it from every other statistic and setting: only the same takes an interrupted pass up again.
    """

    def total(self, maps: Tensor) -> Tensor:
        """maps: [B, C, H, W], float32 or float64 -> [K] float64, the quantity summed over B and C.

        K depends on H and W alone. It is 0 where maps of this size do not have the quantity.
        """

    def result(
        self,
        network: str,
        images: int,
        taps: Sequence[Tap],
        map_sizes: Sequence[tuple[int, int]],
        means: Sequence[np.ndarray],
    ) -> Any:
        """The finished result, from the mean over images and channels [K] at every tap."""


@torch.no_grad()
def feature_statistics(
    model: nn.Module,
    batches: Any,
    statistics: Sequence[Statistic],
    *,
    network: str,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, ...]:
    """The statistics of ``model``'s residual stream over ``batches``: one result per statistic, in the same order.

    One forward pass per batch, in eval mode, feeds all of them, and no feature map outlives its hook. Sums are
    float64. Every image weighs the same, also in a last batch that is smaller.

    Args:
        model: any that ``taps`` knows, on any device; given back in the modes it came in.
        batches: has ``len`` and yields tuples whose first item is images [B, 3, H, W]; the same in every iteration.
        statistics: for example ``[Fourier(), Variance()]``.
        network: the name that results and figures show.
        out: a ``.jsonl`` file that gets one line of sums per finished batch. Where it exists, the pass goes on behind
            the batches it holds, which are read again to see that they are the same, and ends with the numbers of a
            pass that was never stopped; killed, it loses the batch in hand at most.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        TypeError: as ``taps`` does.
        ValueError: no batches; features that are not finite; maps that change their size; an ``out`` that is broken
            or belongs to another model, other statistics or other images.
    """
    if len(batches) == 0:
        raise ValueError("batches: got none, expected at least one")
    places = taps(model)
    journal = Journal(out, KIND, _config(model, statistics, len(batches)), COLUMNS)
    rows = journal.rows
    report = progress or (lambda done, total: None)
    report(len(rows), len(batches))

    with _evaluating(model):
        for number, (images, *_) in enumerate(batches):
            data = checksum([images])
            if number < len(rows):
                if rows[number]["data"] != data:
                    raise ValueError(f"out: {out} holds other images as batch {number}; {START_AGAIN}")
                continue
            row = {"data": data, "images": len(images), **_sums(model, images, statistics)}
            if rows and row["shapes"] != rows[0]["shapes"]:
                raise ValueError(f"batches: batch {number} has feature maps of other sizes than batch 0")
            journal.append(row)
            report(len(rows), len(batches))

    images = sum(row["images"] for row in rows)
    shapes = rows[0]["shapes"]
    sizes = [(height, width) for _, height, width in shapes]
    results = []
    for index, statistic in enumerate(statistics):
        totals = [sum(np.array(row["totals"][index][tap]) for row in rows) for tap in range(len(places))]
        means = [total / (images * channels) for total, (channels, *_) in zip(totals, shapes, strict=True)]
        results.append(statistic.result(network, images, places, sizes, means))
    return tuple(results)


def _sums(model: nn.Module, images: Tensor, statistics: Sequence[Statistic]) -> dict[str, Any]:
    """One forward pass: shapes [taps][3] (channels, height, width) and totals [statistics][taps][K]."""
    shapes: list[list[int]] = []
    totals: list[list[list[float]]] = [[] for _ in statistics]

    def visit(tap: Tap, maps: Tensor) -> None:
        maps = maps if maps.dtype == torch.float64 else maps.float()
        shapes.append(list(maps.shape[1:]))
        for statistic, values in zip(statistics, totals, strict=True):
            total = statistic.total(maps)
            if not total.isfinite().all():
                raise ValueError(f"model: the features at {tap.name} are not finite (diverged weights, bad images?)")
            values.append(total.tolist())

    weight = next(model.parameters())
    with observe(model, visit):
        model(images.to(weight.device, weight.dtype))
    return {"shapes": shapes, "totals": totals}


def _config(model: nn.Module, statistics: Sequence[Statistic], batches: int) -> dict[str, Any]:
    """What sums depend on besides the images."""
    return {
        "model": type(model).__name__,
        "weights": checksum([*model.parameters(), *model.buffers()]),
        "statistics": [repr(statistic) for statistic in statistics],
        "batches": batches,
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it was in, also where they differed."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
