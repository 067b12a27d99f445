"""Accuracy under conditions: which images a network classifies right as it is, and under each of several changes.

The engine of figures 5 (a condition is noise on the images) and 7 (a unit of the network is removed). Every condition
meets the same images, so that its drop in accuracy is a paired difference: it is as sure as the images whose answer
changes are many, however many others there are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.distributed.dealing import Row, check_data, finish
from alternet.analysis.features.fingerprint import fingerprint
from alternet.analysis.files import json_number
from alternet.analysis.modes import evaluating, output_of
from alternet.analysis.progress import Report
from alternet.analysis.studies.journal import Journal, Kind
from alternet.analysis.studies.spectra import FEWEST, LEVEL, RESAMPLES, Estimate

COLUMNS = "accuracy drop low high"

# Logits [B, classes] under a condition, from images [B, 3, H, W] and the number of the first of them.
Condition = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Which of N images a network gets right: ``baseline`` bool [N], and ``correct`` bool [C, N] under conditions."""

    network: str
    baseline: np.ndarray
    correct: np.ndarray

    @property
    def conditions(self) -> list[str]:
        """What each is called."""
        raise NotImplementedError

    @property
    def images(self) -> int:
        return len(self.baseline)

    @property
    def accuracy(self) -> float:
        """Of the unchanged network, 0 to 1."""
        return float(self.baseline.mean())

    @property
    def accuracies(self) -> np.ndarray:
        """Under each condition, float64 [C], 0 to 1."""
        return self.correct.mean(1)

    @property
    def drops(self) -> tuple[Estimate, ...]:
        """Percentage points that are lost under each condition, with their intervals (see ``drop``)."""
        return tuple(drop(self.baseline, right) for right in self.correct)

    def rows(self) -> list[list[float]]:
        """``COLUMNS`` of each condition; NaN where there is no interval."""
        values = zip(self.accuracies.tolist(), self.drops, strict=True)
        return [[accuracy, *asdict(estimate).values()] for accuracy, estimate in values]

    def content(self, conditions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """JSON values that ``fields`` reads, with those that tell the ``conditions``."""
        rows = [
            {**condition, **dict(zip(COLUMNS.split(), map(json_number, row), strict=True)), "correct": _text(right)}
            for condition, row, right in zip(conditions, self.rows(), self.correct, strict=True)
        ]
        whole = {"images": self.images, "accuracy": self.accuracy, "baseline": _text(self.baseline)}
        return {"network": self.network, **whole, "conditions": rows}

    @staticmethod
    def fields(content: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of ``Outcomes``. Raises KeyError or TypeError where it is not ``content`` that is read."""
        correct = _booleans(row["correct"] for row in content["conditions"])
        return {"network": content["network"], "baseline": _booleans([content["baseline"]])[0], "correct": correct}


def drop(baseline: np.ndarray, correct: np.ndarray, *, seed: int = 0) -> Estimate:
    """Percentage points of accuracy that are lost where ``baseline`` becomes ``correct``: bool [N], image by image.

    The interval is that of resampled images. What it asks of them is how many are lost and how many gained, and these
    counts are multinomial: no resample is drawn image by image.
    """
    images, lost, gained = len(baseline), int((baseline & ~correct).sum()), int((correct & ~baseline).sum())
    value = 100 * (lost - gained) / images
    if images < FEWEST:
        return Estimate(value, math.nan, math.nan)
    shares = np.array([lost, gained, images - lost - gained]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=RESAMPLES)
    low, high = np.quantile(100 * (drawn[:, 0] - drawn[:, 1]) / images, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


@torch.no_grad()
def classify(
    model: nn.Module,
    batches: Any,
    conditions: Sequence[Condition],
    *,
    kind: str,
    settings: Mapping[str, Any],
    out: str | os.PathLike[str] | None,
    progress: Report,
) -> tuple[np.ndarray, np.ndarray]:
    """Which images of ``batches`` are right by ``model`` as it is, bool [N], and under each condition, bool [C, N].

    In eval mode, with one forward pass per batch and condition, and one more.

    Args:
        model: given back in the modes it came in.
        batches: has ``len`` and yields (images [B, 3, H, W], targets int64 [B]); the same in every iteration.
        conditions: what they do to the model is undone when they return.
        kind: tells the journals of one study from others.
        settings: JSON values, all that the conditions depend on but the model.
        out: a ``.jsonl`` file that gets one line per finished batch; where it exists, the study goes on behind the
            batches it holds, which are read again to see that they are the same.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        ValueError: no batches, or targets that are no classes; a model that does not give logits; an ``out`` that is
            broken or belongs to another network, to other conditions or to other images.
        FloatingPointError: logits of the unchanged network that are not finite.
    """
    columns: dict[str, Kind] = {"data": str, "baseline": str, "correct": (str, len(conditions))}
    journal = Journal(out, kind, {**fingerprint(model), "batches": len(batches), **settings}, columns)

    def solve(number: int, batch: tuple[Tensor, Tensor], known: Row | None) -> Row:
        images, targets = batch
        _check_targets(images, targets)
        data = checksum([images, targets])
        if known is not None:
            check_data(known, data, journal, number)
            return known
        unchanged = logits(model, images)
        if not unchanged.isfinite().all():
            raise FloatingPointError(f"batch {number}: the logits are not finite (diverged weights, bad images?)")
        first = sum(len(row["baseline"]) for row in journal.rows)
        found = [unchanged, *(condition(images, first) for condition in conditions)]
        baseline, *correct = (_text((each.argmax(1) == targets.to(each.device)).cpu().numpy()) for each in found)
        return {"data": data, "baseline": baseline, "correct": correct}

    with evaluating(model):
        finish(journal, batches, solve, progress)
    baseline = np.concatenate([_booleans([row["baseline"]]) for row in journal.rows], axis=1)[0]
    correct = np.concatenate([_booleans(row["correct"]) for row in journal.rows], axis=1)
    return baseline, correct


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """What ``model`` gives for ``images``, on its device and in its dtype: [B, classes], or ValueError."""
    output = output_of(model, images)
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model: {type(model).__name__} gives {found}, expected logits [B, classes]")
    return output


def _check_targets(images: Tensor, targets: Tensor) -> None:
    if targets.dtype != torch.int64 or targets.shape != images.shape[:1]:
        found = f"{str(targets.dtype).removeprefix('torch.')} {list(targets.shape)}"
        raise ValueError(f"batches: got targets {found}, expected int64 [{len(images)}], the classes of the images")


def _text(right: np.ndarray) -> str:
    """One character an image, 1 for right: whole studies of booleans in JSON would be long."""
    return "".join("01"[each] for each in right.tolist())


def _booleans(texts: Iterable[str]) -> np.ndarray:
    """[texts, length]; ValueError unless all are of one length."""
    return np.array([list(text) for text in texts]) == "1"
