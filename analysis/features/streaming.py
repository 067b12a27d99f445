"""Statistics of the residual stream, averaged over a data set in one pass that can be stopped and taken up again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.features.journal import Journal, Sums, fingerprint
from alternet.analysis.features.taps import Tap, observe, taps


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
        map_sizes: Sequence[tuple[int, ...]],
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
    resume: str | os.PathLike[str] | None = None,
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
        resume: an npz file for the sums so far, rewritten after every batch. Where it exists already, the pass goes on
            behind the batches it holds (these are read again to see that they are the same, but not computed) and ends
            with the numbers of a pass that was never stopped.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        TypeError: as ``taps`` does.
        ValueError: no batches; features that are not finite; maps that change their size; a ``resume`` file that is
            broken or belongs to another model, other statistics or other data.
    """
    if len(batches) == 0:
        raise ValueError("batches: got none, expected at least one")
    places = taps(model)
    sums = Sums()
    journal = Journal(resume, fingerprint(model, statistics, places, len(batches)) if resume else {})
    done = journal.restore(sums)
    report = progress or (lambda done, total: None)
    report(done, len(batches))

    def visit(tap: Tap, maps: Tensor) -> None:
        sums.note_shape(tap, maps)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        for index, statistic in enumerate(statistics):
            total = statistic.total(maps)
            if not total.isfinite().all():
                raise ValueError(f"model: the features at {tap.name} are not finite (diverged weights, bad images?)")
            sums.add(index, tap, total.cpu().numpy())

    weight = next(model.parameters())
    with _evaluating(model), observe(model, visit):
        for number, (images, *_) in enumerate(batches, start=1):
            journal.note_data(images, number)
            if number > done:
                model(images.to(weight.device, weight.dtype))
                sums.images += len(images)
                journal.write(sums, number)
                report(number, len(batches))

    sizes = [sums.shapes[tap.name][1:] for tap in places]
    return tuple(
        statistic.result(network, sums.images, places, sizes, [sums.mean(index, tap) for tap in places])
        for index, statistic in enumerate(statistics)
    )


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
