"""The main job: train the three networks, make figures 2, 4 and 6, judge the claims, write the page.

Everything lies in one folder. Every part resumes where it was stopped: training at the last epoch, figures at the last
mini-batch. What a run depends on is kept in ``config.json``, and a folder never mixes two runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alternet.analysis.claims import judge, save_claims
from alternet.analysis.features import feature_statistics
from alternet.analysis.features.fourier import Fourier, FourierResult
from alternet.analysis.features.per_image import PerImage, per_image_statistics
from alternet.analysis.features.variance import Variance, VarianceResult
from alternet.analysis.figures import draw_fourier, draw_spectra, draw_training, draw_variance
from alternet.analysis.files import load_json, save_json
from alternet.analysis.machine import describe
from alternet.analysis.pages.poster_page import Page, write_page
from alternet.analysis.progress import reporting
from alternet.analysis.studies.settings import claim_folder, plain
from alternet.analysis.studies.spectra import SpectraResult, hessian_spectra
from alternet.analysis.training.batches import Batch, eval_batches, hessian_batches, train_batches
from alternet.analysis.training.data import ImageData, load_data
from alternet.analysis.training.loop import HISTORY_KIND, WARM, evaluate, train
from alternet.analysis.training.networks import LABELS, Network, poster_networks
from alternet.analysis.training.recipe import Recipe

CONFIG_KIND, SECONDS_KIND = "alternet poster configuration", "alternet poster seconds"
JUDGED_IMAGES = 1000  # claims are judged on at most this many test images, spread evenly


@dataclass(frozen=True)
class Poster:
    """What to make a poster of.

    Args:
        data: see ``load_data``; also ``image_size`` and ``flip``.
        recipe: of the training, and of the augmentation of Hessian mini-batches.
        seed: of everything random.
        fraction: of the training set in Hessian mini-batches.
        checkpoints: files of weights by network ("resnet", "vit", "alternet"), which then are not trained.
    """

    data: str
    recipe: Recipe
    image_size: int | None = None
    flip: bool | None = None
    seed: int = 0
    fraction: float = 0.1
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.checkpoints) - set(LABELS))
        if unknown:
            raise ValueError(f"checkpoints: got networks {', '.join(unknown)}, expected some of {', '.join(LABELS)}")


def make_poster(
    poster: Poster, out: str | os.PathLike[str], *, device: str | torch.device = "cpu", command: str = ""
) -> Path:
    """Make what is not there yet of ``poster`` in the folder ``out``; its ``index.html``.

    ``command`` is shown on the page as what remakes it.

    Raises:
        ValueError: ``out`` holds a poster with another configuration, or a damaged one; see also ``load_data``,
            ``load_weights``, ``hessian_batches``.
        FloatingPointError: a network diverged in training.
    """
    job = _Job(poster, Path(out), torch.device(device))
    job.claim_folder()
    models = {network.name: job.model(network) for network in job.networks}
    final = {name: job.final_spectra(name, model) for name, model in models.items()}
    warm = {network.name: job.warm_spectra(network) for network in job.networks if network.name in job.histories}
    fourier, variance, per_image = {}, {}, {}
    for name, model in models.items():
        fourier[name], variance[name], per_image[name] = job.features(name, model)
    figures = job.draw(final, warm, fourier, variance)
    claims = judge(final, per_image, seed=poster.seed)
    save_claims(claims, job.out)
    page = Page(
        settings=job.config,
        parameters={LABELS[name]: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        accuracies={LABELS[name]: job.accuracy(name, model) for name, model in models.items()},
        judged_images=JUDGED_IMAGES,
        figures=figures,
        spectra=list(final.values()),
        claims=claims,
        seconds=job.seconds,
        machine=describe(device),
        command=command,
    )
    return write_page(page, job.out / "index.html")


class _Job:
    """A poster in the making: its folder, its data, and the parts that are there."""

    def __init__(self, poster: Poster, out: Path, device: torch.device) -> None:
        self.poster, self.out, self.device = poster, out, device
        self.data: ImageData = load_data(poster.data, image_size=poster.image_size, flip=poster.flip)
        self.networks = poster_networks(self.data.image_size, len(self.data.classes))
        self.batches = hessian_batches(
            self.data, poster.recipe, seed=poster.seed, fraction=poster.fraction, device=device
        )
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.config = plain(
            {
                "data": self.data.summary(),
                "recipe": dataclasses.asdict(poster.recipe),
                "seed": poster.seed,
                "fraction": poster.fraction,
                "checkpoints": {name: _digest(path) for name, path in sorted(poster.checkpoints.items())},
                "networks": [network.summary() for network in self.networks],
            }
        )
        self.given = {
            network.name: network.build(checkpoint=poster.checkpoints[network.name]).to(device)
            for network in self.networks
            if network.name in poster.checkpoints
        }
        if len(self.given) < len(self.networks):
            train_batches(self.data, poster.recipe, seed=poster.seed, epoch=0)  # raises before the folder is claimed
        self.seconds: dict[str, float] = {}

    def claim_folder(self) -> None:
        """Write ``config.json``. Raises ValueError where the folder belongs to another poster."""
        claim_folder(self.out, CONFIG_KIND, "poster", self.config)
        if (self.out / "seconds.json").exists():
            self.seconds = load_json(self.out / "seconds.json", SECONDS_KIND)

    def model(self, network: Network) -> nn.Module:
        """The trained network, or the one of the user's checkpoint."""
        if network.name in self.given:
            return self.given[network.name]
        folder = self.out / "networks" / network.name
        model = train(network, self.data, self.poster.recipe, folder, seed=self.poster.seed, device=self.device)
        history = load_json(folder / "history.json", HISTORY_KIND)["rows"]
        self.histories[network.name] = history
        self.seconds[f"training {LABELS[network.name]}"] = sum(row["seconds"] for row in history)
        return model

    def accuracy(self, name: str, model: nn.Module) -> float:
        """On the whole test set, of which claims are judged on a part."""
        if name in self.histories:
            return self.histories[name][-1]["test_accuracy"]
        return evaluate(model, eval_batches(self.data, device=self.device))[1]

    def warm_spectra(self, network: Network) -> SpectraResult | None:
        """The spectra after the warm-up, on a third of the mini-batches; None where the recipe has none."""
        if self.poster.recipe.warmup_epochs == 0:
            return None
        model = network.build(checkpoint=self.out / "networks" / network.name / WARM).to(self.device)
        third = self.batches[: -(-len(self.batches) // 3)]
        return self.spectra(network.name, model, third, "after warm-up")

    def final_spectra(self, name: str, model: nn.Module) -> SpectraResult:
        return self.spectra(name, model, self.batches, "final")

    def spectra(self, name: str, model: nn.Module, batches: Sequence[Batch], phase: str) -> SpectraResult:
        """Figure 2's numbers of one network, in ``spectra/``."""
        path = self.out / "spectra" / f"{name}-{phase.replace(' ', '-')}.jsonl"
        with self._timed(f"Hessian of {LABELS[name]}, {phase}"):
            return hessian_spectra(
                model,
                batches,
                weight_decay=self.poster.recipe.weight_decay,
                seed=self.poster.seed,
                out=path,
                network=LABELS[name],
            )

    def features(self, name: str, model: nn.Module) -> tuple[FourierResult, VarianceResult, PerImage]:
        """The numbers of figures 4 and 6 of one network, in ``features/``."""
        folder = self.out / "features"
        with self._timed(f"features of {LABELS[name]}"):
            with reporting(f"features of {LABELS[name]}") as report:
                fourier, variance = feature_statistics(
                    model,
                    eval_batches(self.data, device=self.device),
                    [Fourier(), Variance()],
                    network=LABELS[name],
                    out=folder / f"{name}-sums.jsonl",
                    progress=report,
                )
            with reporting(f"image by image, {LABELS[name]}") as report:
                per_image = per_image_statistics(
                    model,
                    eval_batches(self.data, limit=JUDGED_IMAGES, device=self.device),
                    network=LABELS[name],
                    out=folder / f"{name}-images.jsonl",
                    progress=report,
                )
        for figure, result in (("fourier", fourier), ("variance", variance)):
            result.save(folder / f"{name}-{figure}.json")
            result.save_csv(folder / f"{name}-{figure}.csv")
        return fourier, variance, per_image

    def draw(
        self,
        final: Mapping[str, SpectraResult],
        warm: Mapping[str, SpectraResult | None],
        fourier: Mapping[str, FourierResult],
        variance: Mapping[str, VarianceResult],
    ) -> dict[str, Path]:
        """The pictures, by what they show."""
        folder = self.out / "figures"
        figures = {name: folder / f"{name}.png" for name in ("spectra", "fourier", "variance")}
        draw_spectra(list(final.values()), figures["spectra"])
        draw_fourier(list(fourier.values()), figures["fourier"])
        draw_variance(list(variance.values()), figures["variance"])
        early = [result for result in warm.values() if result is not None]
        if early:
            figures["warmup"] = folder / "warmup.png"
            draw_spectra(early, figures["warmup"], title="Hessian max-eigenvalue spectra after the warm-up")
        if self.histories:
            figures["training"] = folder / "training.png"
            draw_training({LABELS[name]: rows for name, rows in self.histories.items()}, figures["training"])
        return figures

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Note in ``seconds.json`` what a part took when it is finished; later runs only read its results."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(part, round(time.perf_counter() - start, 2))
        save_json(self.out / "seconds.json", SECONDS_KIND, self.seconds)


def _digest(path: str) -> str:
    """Of a file's contents. Raises ValueError where there is none."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
    except OSError as error:
        raise ValueError(f"checkpoint: {path} cannot be read: {error.strerror}") from error
