"""Figures 2 and 8d: Hessian spectra over the training of a ResNet, a ViT, a ViT on less data and an AlterNet.

Everything lies in one folder and goes on where it was stopped: training at the last epoch, spectra at the last
mini-batch. ``config.json`` has what the study depends on, and a folder never mixes two of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alternet.analysis.claims import Claim, judge_study, save_claims
from alternet.analysis.figures import draw_estimates, draw_spectra, draw_training, draw_training_spectra
from alternet.analysis.figures.training import History
from alternet.analysis.files import load_json
from alternet.analysis.machine import describe
from alternet.analysis.pages.study_page import write_study_page
from alternet.analysis.studies.settings import claim_folder, plain
from alternet.analysis.studies.training_spectra import Course, Snapshot, spectra_over_training
from alternet.analysis.training.batches import hessian_batches, train_batches
from alternet.analysis.training.data import ImageData, load_data, portion
from alternet.analysis.training.loop import HISTORY_KIND, kept_file, train
from alternet.analysis.training.networks import LABELS, Network, poster_networks
from alternet.analysis.training.recipe import Recipe

CONFIG_KIND = "alternet hessian study configuration"
EARLY_SHARE = 3  # epochs before the last are measured on one in so many of the mini-batches


@dataclass(frozen=True)
class HessianStudy:
    """What to study.

    Args:
        data: see ``load_data``; also ``image_size`` and ``flip``.
        recipe: of the training, and of the augmentation of Hessian mini-batches.
        seed: of everything random.
        fraction: of the training set in Hessian mini-batches.
        less: the share of the data that one more ViT is trained and measured on (see ``portion``).
        epochs: after which the networks are measured, the last one always among them; None for the figure's: after
            the warm-up and every third of the rest.
    """

    data: str
    recipe: Recipe
    image_size: int | None = None
    flip: bool | None = None
    seed: int = 0
    fraction: float = 0.1
    less: float = 0.06
    epochs: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.less < 1:
            raise ValueError(f"less: got {self.less}, expected more than 0 and less than 1")
        outside = [epoch for epoch in self.epochs or () if not 0 <= epoch <= self.recipe.epochs]
        if outside:
            raise ValueError(f"epochs: got {outside[0]}, expected 0 to {self.recipe.epochs}")

    @property
    def measured(self) -> tuple[int, ...]:
        """The epochs, rising."""
        first, last = self.recipe.warmup_epochs, self.recipe.epochs
        thirds = [first + round((last - first) * third / 3) for third in range(4)]
        return tuple(sorted({*(thirds if self.epochs is None else self.epochs), last}))


def make_hessian_study(
    study: HessianStudy, out: str | os.PathLike[str], *, device: str | torch.device = "cpu", command: str = ""
) -> tuple[Claim, ...]:
    """Make what is not there yet of ``study`` in the folder ``out``; the claims of the paper, judged.

    ``networks/`` gets the trainings, ``spectra/`` the eigenvalues of every mini-batch and a table, ``figures/`` the
    pictures, ``claims.json`` and ``claims.csv`` the verdicts, ``index.html`` all of it. ``command`` is shown there as
    what remakes it.

    Raises:
        ValueError: ``out`` holds a study with another configuration, or a damaged one; see also ``load_data``,
            ``portion``, ``train`` and ``hessian_batches``.
        FloatingPointError: a network diverged in training.
    """
    out = Path(out)
    cases = _cases(study)
    snapshots = [snapshot for case in cases for snapshot in _snapshots(case, study, out, device)]
    elsewhere = _elsewhere(cases, study, out, device)
    train_batches(cases[0].data, study.recipe, seed=study.seed, epoch=0)  # raises before the folder is claimed
    settings = _settings(study, cases)
    claim_folder(out, CONFIG_KIND, "Hessian study", settings)
    for case in cases:
        train(
            case.network,
            case.data,
            study.recipe,
            out / "networks" / case.network.name,
            seed=study.seed,
            device=device,
            keep_epochs=study.measured,
        )
    course = spectra_over_training(
        [*snapshots, elsewhere],
        out / "spectra",
        seed=study.seed,
        weight_decay=study.recipe.weight_decay,
    )
    histories = _histories(cases, out)
    _draw(course, histories, out / "figures")
    last = {case.network.name: course[case.label][study.recipe.epochs] for case in cases}
    last["vit_less_elsewhere"] = course[elsewhere.network][elsewhere.epoch]
    claims = judge_study(last, seed=study.seed)
    save_claims(claims, out)
    write_study_page(
        out / "index.html",
        settings=settings,
        course=course,
        accuracies={label: rows[-1]["test_accuracy"] for label, rows in histories.items()},
        claims=claims,
        figures=out / "figures",
        machine=describe(device),
        command=command,
    )
    return claims


@dataclass(frozen=True)
class _Case:
    """A network, the name that figures show, and the data that it learns from and is measured on."""

    network: Network
    label: str
    data: ImageData


def _cases(study: HessianStudy) -> list[_Case]:
    data = load_data(study.data, image_size=study.image_size, flip=study.flip)
    cases = [
        _Case(network, LABELS[network.name], data) for network in poster_networks(data.image_size, len(data.classes))
    ]
    vit = next(case.network for case in cases if case.network.name == "vit")
    less = _Case(
        dataclasses.replace(vit, name="vit_less"),
        f"{LABELS['vit']}, {100 * study.less:g} % of the data",
        portion(data, study.less, seed=study.seed),
    )
    return [*cases, less]


def _settings(study: HessianStudy, cases: Sequence[_Case]) -> dict[str, Any]:
    """What the study depends on, as JSON values: of the data not where they lie, but what they are."""
    return plain(
        {
            "recipe": dataclasses.asdict(study.recipe),
            "seed": study.seed,
            "fraction": study.fraction,
            "less": study.less,
            "epochs": study.measured,
            "networks": [{"network": case.network.summary(), "data": case.data.summary()} for case in cases],
        }
    )


def _snapshots(case: _Case, study: HessianStudy, out: Path, device: str | torch.device) -> list[Snapshot]:
    batches = hessian_batches(case.data, study.recipe, seed=study.seed, fraction=study.fraction)
    early = batches[: -(-len(batches) // EARLY_SHARE)]
    return [
        Snapshot(
            case.label,
            epoch,
            partial(_load, case.network, out / "networks" / case.network.name / kept_file(epoch), device),
            batches if epoch == study.recipe.epochs else early,
        )
        for epoch in study.measured
    ]


def _elsewhere(cases: Sequence[_Case], study: HessianStudy, out: Path, device: str | torch.device) -> Snapshot:
    """The last of the ViT on less data, on the mini-batches of the others, most of which it never saw.

    A network that knows its few pictures by heart has another loss on those than the one it learned to lower.
    """
    vit, less = (next(case for case in cases if case.network.name == name) for name in ("vit", "vit_less"))
    snapshot = _snapshots(dataclasses.replace(less, data=vit.data), study, out, device)[-1]
    return dataclasses.replace(snapshot, network=f"{less.label}, on all")


def _load(network: Network, checkpoint: Path, device: str | torch.device) -> nn.Module:
    return network.build(checkpoint=checkpoint).to(device)


def _histories(cases: Sequence[_Case], out: Path) -> dict[str, History]:
    """The rows of every training, by label."""
    return {
        case.label: load_json(out / "networks" / case.network.name / "history.json", HISTORY_KIND)["rows"]
        for case in cases
    }


def _draw(course: Course, histories: Mapping[str, History], folder: Path) -> None:
    draw_spectra([list(of.values())[-1] for of in course.values()], folder / "spectra.png")
    draw_training_spectra(course, folder / "training_spectra.png")
    draw_estimates(course, folder / "estimates.png")
    draw_training(histories, folder / "training.png")
