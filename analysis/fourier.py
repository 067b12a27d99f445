"""Figure 4: relative log amplitudes of Fourier-transformed feature maps.

For a map x [H, W] and a frequency f (in units of π per pixel) the half-diagonal of the two-dimensional transform is

    F(f, f) = Σ_{h,w} x[h, w] exp(-iπf(h + w)) = Σ_j d[j] exp(-iπfj),    d[j] = Σ_{h+w=j} x[h, w]

so that one read of the map gives its H + W - 1 anti-diagonal sums d, and these give the transform at any frequency, for
a map of any shape. On a map that is not square the "diagonal" therefore means equal frequencies per pixel in both
directions, and the frequencies are those of the longer side (where a constant map has no amplitude but at 0).
The log amplitude is log(|F| + 1e-6), averaged over images and channels; *relative*: minus its value at frequency 0.
Source: Park & Kim, ICLR 2022 (arXiv 2202.06709), section 3 and appendix, and the authors' public code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alternet.analysis.features import Tap
from alternet.analysis.files import complete, load_json, save_csv, save_json

Axis = Literal["exact", "paper"]
KIND = "alternet Fourier analysis"
OFFSET = 1e-6  # keeps the logarithm of an amplitude of 0 finite; as in the authors' code


def frequencies(height: int, width: int, axis: Axis = "exact") -> tuple[Tensor, Tensor]:
    """Frequencies [K] on the half-diagonal of a map, as computed and as labelled, in units of π; float64.

    With n the longer side, ``"exact"`` has 2k/n for k = 0 … floor(n/2): up to 1 for even n, up to 1 - 1/n for odd n.
    ``"paper"`` has the authors' k = 0 … ceil(n/2) - 1, labelled evenly from 0 to 1 as in their figure (so that what is
    called 1.0π is the last frequency below it).
    """
    longer = max(height, width)
    if axis == "exact":
        exact = 2 * torch.arange(longer // 2 + 1, dtype=torch.float64) / longer
        return exact, exact
    count = -(-longer // 2)
    return 2 * torch.arange(count, dtype=torch.float64) / longer, torch.linspace(0, 1, count, dtype=torch.float64)


def log_amplitudes(maps: Tensor, axis: Axis = "exact") -> Tensor:
    """maps: [B, C, H, W], float32 or float64 -> log(|F(f, f)| + 1e-6) [B, C, K], in the same dtype.

    The frequencies f are those that ``frequencies`` gives as computed.
    """
    height, width = maps.shape[-2:]
    # Overlap-adding the rows, each one column further right, is what fold does with blocks of one column.
    columns = F.fold(maps.flatten(1, 2), output_size=(1, height + width - 1), kernel_size=(1, height))
    positions = torch.arange(height + width - 1, dtype=torch.float64)
    phases = torch.pi * torch.outer(positions, frequencies(height, width, axis)[0])
    cosines, sines = phases.cos().to(maps), phases.sin().to(maps)
    sums = columns.squeeze(2)  # [B, C, H + W - 1]
    return torch.log(torch.hypot(sums @ cosines, sums @ sines) + OFFSET)


@dataclass(frozen=True)
class Fourier:
    """The statistic of figure 4, for ``feature_statistics``; its result is a ``FourierResult``."""

    axis: Axis = "exact"

    def __post_init__(self) -> None:
        if self.axis not in get_args(Axis):
            raise ValueError(f"axis: got {self.axis!r}, expected one of {get_args(Axis)}")

    def total(self, maps: Tensor) -> Tensor:
        """maps: [B, C, H, W] -> log amplitudes summed over B and C, [K] float64."""
        return log_amplitudes(maps, self.axis).sum((0, 1), dtype=torch.float64)

    def result(
        self,
        network: str,
        images: int,
        taps: Sequence[Tap],
        map_sizes: Sequence[tuple[int, int]],
        means: Sequence[np.ndarray],
    ) -> FourierResult:
        labels = [frequencies(*size, self.axis)[1].numpy() for size in map_sizes]
        return FourierResult(network, images, tuple(taps), tuple(map_sizes), tuple(labels), tuple(means), self.axis)


@dataclass(frozen=True, eq=False)
class FourierResult:
    """Mean log amplitudes on the half-diagonal at every tap of one network.

    ``frequencies`` and ``log_amplitudes`` hold one float64 array [K] per tap (in units of π, as labelled on the
    ``axis``, and natural logarithms). Taps in order of depth; ``map_sizes`` are (height, width).
    """

    network: str
    images: int
    taps: tuple[Tap, ...]
    map_sizes: tuple[tuple[int, int], ...]
    frequencies: tuple[np.ndarray, ...]
    log_amplitudes: tuple[np.ndarray, ...]
    axis: Axis

    @property
    def relative(self) -> tuple[np.ndarray, ...]:
        """Relative log amplitudes: minus the value at frequency 0, where they start with 0."""
        return tuple(values - values[0] for values in self.log_amplitudes)

    @property
    def high_frequency(self) -> np.ndarray:
        """Δ log amplitude [taps]: relative, at the highest frequency. NaN where a map (1x1) has no frequency but 0."""
        return np.array([values[-1] if len(values) > 1 else np.nan for values in self.relative])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads."""
        content = {
            "network": self.network,
            "images": self.images,
            "axis": self.axis,
            "taps": [
                {**asdict(tap), "map_size": size, "frequencies": axis.tolist(), "log_amplitudes": values.tolist()}
                for tap, size, axis, values in zip(
                    self.taps, self.map_sizes, self.frequencies, self.log_amplitudes, strict=True
                )
            ],
        }
        save_json(path, KIND, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FourierResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            rows = content["taps"]
            return cls(
                network=content["network"],
                images=content["images"],
                taps=tuple(Tap.from_row(row) for row in rows),
                map_sizes=tuple((height, width) for height, width in (row["map_size"] for row in rows)),
                frequencies=tuple(np.array(row["frequencies"], dtype=float) for row in rows),
                log_amplitudes=tuple(np.array(row["log_amplitudes"], dtype=float) for row in rows),
                axis=content["axis"],
            )

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per tap and frequency, for other programs."""
        rows = (
            [self.network, tap.name, tap.kind, tap.stage, tap.depth, *size, *numbers]
            for tap, size, *values in zip(
                self.taps, self.map_sizes, self.frequencies, self.log_amplitudes, self.relative, strict=True
            )
            for numbers in np.stack(values, axis=1).tolist()
        )
        save_csv(path, "network tap kind stage depth height width frequency_pi log_amplitude relative", rows)
