"""Figures 4 and 6 image by image, and which images are classified right: what the claims are judged on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.distributed.dealing import Row, check_data, finish
from alternet.analysis.features import Tap, observe
from alternet.analysis.features.fingerprint import fingerprint
from alternet.analysis.studies.journal import Journal, Kind
from alternet.analysis.training.batches import Batches
from alternet.kernels import feature_spectrum

KIND = "alternet statistics per image"
COLUMNS = ("high_frequency", "variance", "correct")
KINDS: dict[str, Kind] = {**dict.fromkeys((*COLUMNS, "map_sizes"), list), "data": str}


@dataclass(frozen=True, eq=False)
class PerImage:
    """Statistics of single images [N] at every tap of a network.

    high_frequency: [N, taps] float64, the mean over channels of the relative log amplitude at the highest frequency of
        the exact axis (see ``fourier``); NaN for 1x1 maps.
    variance: [N, taps] float64, the mean over channels of the spatial variance; NaN for 1x1 maps.
    correct: [N] bool, whether the image's class got the largest logit.
    """

    network: str
    taps: tuple[Tap, ...]
    map_sizes: tuple[tuple[int, ...], ...]
    high_frequency: np.ndarray
    variance: np.ndarray
    correct: np.ndarray


@torch.no_grad()
def per_image_statistics(
    model: nn.Module,
    batches: Batches,
    *,
    network: str,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PerImage:
    """One forward pass per batch, in eval mode (the model stays in it).

    Args:
        model: any that ``taps`` knows.
        batches: with targets int64 [B].
        out: a ``.jsonl`` file that gets one line per finished batch; where it exists, the pass goes on behind the
            batches it holds, which are read again to see that they are the same.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        ValueError: no batches; an ``out`` that is broken or belongs to another network or other batches.
    """
    model.eval()
    config = {**fingerprint(model), "images": len(batches.order), "batches": len(batches)}
    journal = Journal(out, KIND, config, KINDS)
    seen: list[tuple[tuple[int, ...], Tensor, Tensor]] = []

    def visit(tap: Tap, maps: Tensor) -> None:
        spectrum = feature_spectrum(maps, per_image=True)
        high = spectrum.log_amplitude[:, -1] - spectrum.log_amplitude[:, 0]  # [B]
        if spectrum.log_amplitude.shape[-1] == 1:
            high = torch.full_like(high, torch.nan)
        seen.append((spectrum.size, high, spectrum.variance))

    def solve(number: int, batch: tuple[Tensor, Tensor], known: Row | None) -> Row:
        images, targets = batch
        data = checksum([images, targets])
        if known is not None:
            check_data(known, data, journal, number)
            return known
        seen.clear()
        correct = model(images).argmax(1) == targets
        return {
            "data": data,
            "map_sizes": [list(size) for size, _, _ in seen],
            "high_frequency": _json(torch.stack([high for _, high, _ in seen], 1)),
            "variance": _json(torch.stack([variance for _, _, variance in seen], 1)),
            "correct": correct.tolist(),
        }

    with observe(model, visit) as places:
        finish(journal, batches, solve, progress)
    high, variance, correct = (np.concatenate([np.array(row[name], float) for row in journal.rows]) for name in COLUMNS)
    map_sizes = tuple(tuple(size) for size in journal.rows[0]["map_sizes"])
    return PerImage(network, tuple(places), map_sizes, high, variance, correct.astype(bool))


def _json(values: Tensor) -> list[Sequence[float | None]]:
    """Nested lists, with None for NaN."""
    return [[None if value != value else value for value in row] for row in values.tolist()]
