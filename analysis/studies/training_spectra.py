"""Figure 2 over training: the mini-batch spectra of one or several networks at several epochs, as one study."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from alternet.analysis.files import file_stem, save_csv, save_json
from alternet.analysis.progress import reporting_stages
from alternet.analysis.studies.spectra import SpectraResult, hessian_spectra

KIND = "alternet hessian spectra over training"
COLUMNS = "network epoch nep nep_low nep_high ape ape_low ape_high mini_batches products sign_uncertain not_converged"

Course = Mapping[str, Mapping[int, SpectraResult]]  # network -> epoch -> its spectra, epochs rising


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A network at one point of its training.

    network: the name that results and figures show.
    epoch: after which it is.
    load: makes it, with its weights and on its device.
    batches: the mini-batches it is measured on, as ``hessian_spectra`` takes them.
    """

    network: str
    epoch: int
    load: Callable[[], nn.Module]
    batches: Any

    @property
    def file(self) -> str:
        """The name of its journal."""
        return f"{file_stem(self.network)}-{self.epoch}.jsonl"


def spectra_over_training(
    snapshots: Iterable[Snapshot], folder: str | os.PathLike[str], *, progress: bool = True, **arguments: Any
) -> dict[str, dict[int, SpectraResult]]:
    """``hessian_spectra`` of every snapshot, in order of their epochs within every network.

    ``folder`` gets a journal and a result per snapshot (see ``hessian_spectra``: killed, the study loses the mini-batch
    in hand at most), and a row per snapshot in ``spectra.json`` and ``spectra.csv``. One bar shows the time left for
    all of them. ``arguments`` go to ``hessian_spectra``.

    Raises:
        ValueError: no snapshots, or two of the same network and epoch; see also ``hessian_spectra``.
        FloatingPointError: a Hessian-vector product is not finite.
    """
    snapshots = sorted(snapshots, key=lambda snapshot: snapshot.epoch)
    _check_distinct(snapshots)
    folder = Path(folder)
    course: dict[str, dict[int, SpectraResult]] = {snapshot.network: {} for snapshot in snapshots}
    total = sum(len(snapshot.batches) for snapshot in snapshots)
    with reporting_stages("Hessians", total) if progress else nullcontext(lambda name: False) as stage:
        for network, of in course.items():
            for snapshot in (snapshot for snapshot in snapshots if snapshot.network == network):
                of[snapshot.epoch] = hessian_spectra(
                    snapshot.load(),
                    snapshot.batches,
                    out=folder / snapshot.file,
                    network=network,
                    progress=stage(f"{network}, epoch {snapshot.epoch}"),
                    **arguments,
                )
    rows = course_rows(course)
    save_json(folder / "spectra.json", KIND, {"spectra": rows})
    save_csv(folder / "spectra.csv", COLUMNS, ([*row.values()] for row in rows))
    return course


def course_rows(course: Course) -> list[dict[str, Any]]:
    """NEP and APE with 95 % intervals, and how sure they are, of every network and epoch: JSON values."""
    return [_row(network, epoch, result) for network, of in course.items() for epoch, result in of.items()]


def _row(network: str, epoch: int, result: SpectraResult) -> dict[str, Any]:
    summary = result.summary()
    estimates = [summary[name][part] for name in ("nep", "ape") for part in ("value", "low", "high")]
    counts = [summary[name] for name in ("products", "sign_uncertain", "not_converged")]
    return dict(zip(COLUMNS.split(), [network, epoch, *estimates, len(result.values), *counts], strict=True))


def _check_distinct(snapshots: Sequence[Snapshot]) -> None:
    if not snapshots:
        raise ValueError("snapshots: got none, expected at least one")
    file, count = Counter(snapshot.file for snapshot in snapshots).most_common(1)[0]
    if count > 1:
        twice = next(snapshot for snapshot in snapshots if snapshot.file == file)
        raise ValueError(f"snapshots: {count} are of {twice.network} after epoch {twice.epoch}, expected one")
