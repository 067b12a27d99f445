"""One HTML page of a Hessian study's results. ``study.html`` has the words; this file has the numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alternet.analysis.claims import Claim
from alternet.analysis.pages.parts import (
    data_places,
    paper_peaks,
    picture,
    recipe_words,
    spectra_table,
    table,
    verdict_counts,
    verdict_table,
    write_document,
)
from alternet.analysis.studies.training_spectra import Course

PICTURES = {
    "spectra": "Densities of the Hessian eigenvalues of largest magnitude after the last epoch",
    "training_spectra": "The same densities, epoch by epoch",
    "estimates": "Negative eigenvalue proportion and average positive eigenvalue over epochs",
    "training": "Training: loss and accuracy over epochs",
}


def write_study_page(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any],
    course: Course,
    accuracies: Mapping[str, float],
    claims: Sequence[Claim],
    figures: Path,
    machine: Mapping[str, str],
    command: str,
) -> Path:
    """Write the page, whole; its path.

    ``settings`` are the study's ``config.json``, ``accuracies`` test accuracies by network, ``figures`` a folder.
    """
    last = [list(of.values())[-1] for of in course.values()]
    data = settings["networks"][0]["data"]
    plain = {
        **data_places(data),
        **paper_peaks(),
        "networks": "; ".join(accuracies),
        "training": recipe_words(settings["recipe"], data["flip"]),
        "batch_size": last[0].sizes[0],
        "command": command,
        "settings": json.dumps(settings, indent=1),
    }
    markup = {
        "counts": verdict_counts(claims),
        "verdict_table": verdict_table(claims),
        "spectra_table": spectra_table(last),
        "network_table": table(("network", "test accuracy"), ((name, f"{x:.1%}") for name, x in accuracies.items())),
        "machine_table": table((), machine.items()),
        **{f"{name}_picture": picture(figures / f"{name}.png", shows) for name, shows in PICTURES.items()},
    }
    return write_document("study.html", path, f"Hessians over training: {data['name']}", plain, markup)
