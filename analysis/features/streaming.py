"""Statistics of the residual stream, averaged over a data set in one pass that can be stopped and taken up again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.distributed.dealing import Row, check_data, finish
from alternet.analysis.features.fingerprint import fingerprint
from alternet.analysis.features.taps import Tap, observe, taps
from alternet.analysis.modes import evaluating, output_of
from alternet.analysis.studies.journal import Journal
from alternet.kernels.feature_spectrum import Spectrum, SpectrumAccumulator

KIND = "alternet feature sums"
COLUMNS = {"data": str, "images": int, "shapes": list, "spectra": list}


class Statistic(Protocol):
    """A quantity that is read off the mean spectrum of every tap's feature maps."""

    def result(self, network: str, images: int, taps: Sequence[Tap], spectra: Sequence[Spectrum]) -> Any:
        """The finished result, from the spectra averaged over images and channels, one for each tap."""


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

    One forward pass per batch, in eval mode, and one read of every feature map feed all of them, and no feature map
    outlives its hook. Sums are float64 (``SpectrumAccumulator``). Every image weighs the same, also in a last batch
    that is smaller.

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
            or belongs to another model or other images.
    """
    places = taps(model)
    journal = Journal(out, KIND, {**fingerprint(model), "batches": len(batches)}, COLUMNS)
    rows = journal.rows

    def solve(number: int, batch: Sequence[Tensor], known: Row | None) -> Row:
        data = checksum(batch[:1])
        if known is not None:
            check_data(known, data, journal, number, "images")
            return known
        row = {"data": data, "images": len(batch[0]), **_spectra(model, batch[0])}
        if rows and row["shapes"] != rows[0]["shapes"]:
            raise ValueError(f"batches: batch {number} has feature maps of other sizes than batch 0")
        return row

    with evaluating(model):
        finish(journal, batches, solve, progress or (lambda done, total: None))
    images = sum(row["images"] for row in rows)
    spectra = [_mean(row["spectra"][tap] for row in rows) for tap in range(len(places))]
    return tuple(statistic.result(network, images, places, spectra) for statistic in statistics)


def _spectra(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """One forward pass: shapes [taps][3] (channels, height, width) and the sums of an accumulator for each tap."""
    shapes: list[list[int]] = []
    states: list[dict[str, Any]] = []

    def visit(tap: Tap, maps: Tensor) -> None:
        spectrum = SpectrumAccumulator()
        spectrum.update(maps)
        if not spectrum.result().log_amplitude.isfinite().all():
            raise ValueError(f"model: the features at {tap.name} are not finite (diverged weights, bad images?)")
        shapes.append(list(maps.shape[1:]))
        states.append(spectrum.state())

    with observe(model, visit):
        output_of(model, images)
    return {"shapes": shapes, "spectra": states}


def _mean(states: Iterable[dict[str, Any]]) -> Spectrum:
    whole = SpectrumAccumulator()
    for state in states:
        whole.merge(SpectrumAccumulator.from_state(state))
    return whole.result()
