"""Figure 5: the accuracy that noise of one frequency band costs a network.

Park & Kim, ICLR 2022 (arXiv 2202.06709), figure 5: a ViT is robust to high-frequency noise, a ResNet is not. The noise
is that of ``alternet.kernels.frequency_noise``. It is added to *pictures*, whose values lie in 0 to 1, so that one
magnitude means the same for all data and all networks: images that are normalised get it divided by the deviation. It
depends on the seed, the band and the image's number alone: every network sees the same. Pictures that it takes below 0
or above 1 stay there; cutting them off would spread the noise over all frequencies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.files import complete, load_json, save_csv, save_json
from alternet.analysis.interventions.accuracy import COLUMNS, Outcomes, classify, logits
from alternet.analysis.training.seeding import derived_seed
from alternet.kernels import frequency_noise
from alternet.kernels.frequency_noise import PAPER_HALF_WIDTH

KIND, JOURNAL_KIND = "alternet noise robustness", "alternet accuracy under noise"
FREQUENCIES = tuple(tenth / 10 for tenth in range(1, 10))  # the paper's, in units of π
MAGNITUDE = 0.2  # costs small networks on natural pictures about as much as the paper's figure shows


@dataclass(frozen=True)
class Noise:
    """What noise of all bands has in common.

    magnitude: ε, in units of pixel values, which are 0 to 1; see ``frequency_noise``, also for ``half_width`` and
        ``equalize_energy``.
    seed: of the random signs, which are the same for every band.
    """

    magnitude: float
    half_width: float
    equalize_energy: bool
    seed: int

    def of(self, images: Tensor, frequency: float, first_image: int) -> Tensor:
        """The noise of ``images`` [B, C, H, W] around ``frequency``, in units of pixel values."""
        return frequency_noise(
            torch.zeros_like(images),
            frequency,
            magnitude=self.magnitude,
            half_width=self.half_width,
            equalize_energy=self.equalize_energy,
            seed=derived_seed(self.seed, "frequency noise"),
            first_image=first_image,
        )


@dataclass(frozen=True, eq=False)
class NoiseResult(Outcomes):
    """Which images are right under noise of each band: ``correct`` bool [frequencies, N], ``baseline`` without noise.

    ``frequencies`` are the centres of the bands, float64, in units of π.
    """

    frequencies: np.ndarray
    noise: Noise

    @property
    def conditions(self) -> list[str]:
        return [f"{frequency:g}π" for frequency in self.frequencies]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads, with accuracies, drops and their intervals."""
        content = self.content({"frequency_pi": frequency} for frequency in self.frequencies.tolist())
        save_json(path, KIND, {"noise": asdict(self.noise), **content})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NoiseResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            frequencies = np.array([row["frequency_pi"] for row in content["conditions"]], dtype=float)
            return cls(**cls.fields(content), frequencies=frequencies, noise=Noise(**content["noise"]))

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per frequency, for other programs; intervals that do not exist are ``nan``."""
        rows = (
            [self.network, self.images, self.accuracy, frequency, *row]
            for frequency, row in zip(self.frequencies.tolist(), self.rows(), strict=True)
        )
        save_csv(path, f"network images baseline frequency_pi {COLUMNS}", rows)


def noise_robustness(
    model: nn.Module,
    batches: Any,
    *,
    network: str,
    std: Sequence[float],
    frequencies: Sequence[float] = FREQUENCIES,
    magnitude: float = MAGNITUDE,
    half_width: float = PAPER_HALF_WIDTH,
    equalize_energy: bool = False,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NoiseResult:
    """Classify images without noise and with noise of each band: 1 + frequencies forward passes per batch.

    Args:
        model: any classifier, on any device; given back in the modes it came in.
        batches: has ``len`` and yields (images [B, C, H, W], targets int64 [B]), as ``eval_batches`` makes them; the
            same in every iteration.
        network: the name that results and figures show.
        std: the deviation by which each channel of the images was divided, ``ImageData.std``; ``[1.0]`` for images
            that are pictures of values in 0 to 1.
        frequencies: centres of the bands, 0 to 1, in units of π per pixel; the result has them in rising order.
        magnitude: ε, in units of pixel values, which are 0 to 1. Of its square a band keeps its share of the plane
            (with the paper's width 3 % at 0.1π, 23 % at 0.9π), all of it with ``equalize_energy``.
        half_width: of the bands, in units of π; by default the authors' 0.2 radian.
        equalize_energy: give the noise of every band the mean square ε².
        seed: of the noise.
        out: a ``.jsonl`` file that gets one line per finished batch; where it exists, the study goes on behind the
            batches it holds, which are read again to see that they are the same.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        TypeError: a number is none.
        ValueError: no frequencies, or one in whose band the images have none; other arguments out of their ranges; no
            batches, or targets that are no classes; an ``out`` that is broken or belongs to another network, other
            noise or other images.
        FloatingPointError: logits of the images without noise that are not finite.
    """
    frequencies, std = sorted(map(float, frequencies)), list(map(float, std))
    if not frequencies:
        raise ValueError("frequencies: got none, expected at least one")
    if not all(deviation > 0 for deviation in std):
        raise ValueError(f"std: got {std}, expected positive numbers")
    noise = Noise(magnitude, half_width, equalize_energy, seed)

    def noisy(frequency: float, images: Tensor, first: int) -> Tensor:
        channels = images.shape[1]
        if len(std) not in (1, channels):
            raise ValueError(f"std: got {len(std)} numbers, expected one for each of the {channels} channels")
        deviation = torch.tensor(std, dtype=images.dtype, device=images.device).view(-1, 1, 1)
        return logits(model, images + noise.of(images, frequency, first) / deviation)

    baseline, correct = classify(
        model,
        batches,
        [partial(noisy, frequency) for frequency in frequencies],
        kind=JOURNAL_KIND,
        settings={"frequencies": frequencies, "std": std, **asdict(noise)},
        out=out,
        progress=progress,
    )
    return NoiseResult(network, baseline, correct, np.array(frequencies), noise)
