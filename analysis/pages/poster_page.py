"""One HTML page of a poster's results, light and dark.

``page.html`` has the words; this file has the numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alternet.analysis.claims import Claim
from alternet.analysis.pages.parts import (
    data_places,
    paper_peaks,
    picture,
    recipe_words,
    signed,
    spectra_table,
    table,
    verdict_counts,
    verdict_table,
    write_document,
)
from alternet.analysis.studies import paper
from alternet.analysis.studies.spectra import SpectraResult

PICTURES = {
    "training": "Training: loss and accuracy over epochs",
    "spectra": "Densities of the Hessian eigenvalues of largest magnitude",
    "warmup": "The same densities after the warm-up epochs",
    "fourier": "Relative log amplitudes by frequency and by depth",
    "variance": "Variance of feature maps by depth",
}


@dataclass(frozen=True)
class Page:
    """What the page shows.

    ``settings`` are the poster's configuration; ``parameters`` and ``accuracies`` (0 to 1) go by network, in the order
    of the page; ``judged_images`` is how many test images claims are judged on at most; ``figures`` are PNG files by
    the names of ``PICTURES``, of which "training" and "warmup" may be absent; ``seconds`` go by part of the job;
    ``machine`` is what it ran on; ``command`` remakes it.
    """

    settings: Mapping[str, Any]
    parameters: Mapping[str, int]
    accuracies: Mapping[str, float]
    judged_images: int
    figures: Mapping[str, Path]
    spectra: Sequence[SpectraResult]
    claims: Sequence[Claim]
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    command: str


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write the page, whole; its path."""
    plain = {
        **data_places(page.settings["data"]),
        **paper_peaks(),
        "networks": ", ".join(page.parameters),
        "judged_images": f"{page.judged_images:,}",
        "training": _training(page),
        "eigenvalues": page.spectra[0].values.shape[1],
        "batch_size": page.spectra[0].sizes[0],
        "paper_accuracies": ", ".join(f"{name} {value:.2f} %" for name, value in paper.ACCURACY.items()),
        "paper_stage_ends": ", ".join(signed(stage[-1]) for stage in paper.RESNET_STAGES),
        "command": page.command,
        "settings": json.dumps(page.settings, indent=1),
    }
    markup = {
        "counts": verdict_counts(page.claims),
        "verdict_table": verdict_table(page.claims),
        "network_table": _network_table(page),
        "spectra_table": spectra_table(page.spectra),
        "machine_table": table((), page.machine.items()),
        "seconds_table": table((), ((part, f"{value:.1f} s") for part, value in _with_total(page.seconds).items())),
        **{f"{name}_picture": picture(page.figures.get(name), shows) for name, shows in PICTURES.items()},
    }
    return write_document("page.html", path, f"AlterNet: {page.settings['data']['name']}", plain, markup)


def _training(page: Page) -> str:
    if "training" not in page.figures:
        return "The weights are those of the checkpoints given."
    return recipe_words(page.settings["recipe"], page.settings["data"]["flip"])


def _network_table(page: Page) -> str:
    rows = (
        (name, f"{count / 1e6:.2f} million", f"{page.accuracies[name]:.1%}") for name, count in page.parameters.items()
    )
    return table(("network", "parameters", "test accuracy"), rows)


def _with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    return {**seconds, "together": sum(seconds.values())}
