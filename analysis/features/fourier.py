"""Figure 4: relative log amplitudes of Fourier-transformed feature maps.

The log amplitude is log(|F| + 1e-6) on the half-diagonal of the two-dimensional transform, averaged over images and
channels (``alternet.kernels.feature_spectrum`` computes it and says what the diagonal of a map that is not square is);
*relative*: minus its value at frequency 0.
Source: Park & Kim, ICLR 2022 (arXiv 2202.06709), section 3 and appendix, and the authors' public code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np

from alternet.analysis.features import Tap
from alternet.analysis.files import complete, load_json, save_csv, save_json
from alternet.kernels.feature_spectrum import Axis, Spectrum

KIND = "alternet Fourier analysis"


@dataclass(frozen=True)
class Fourier:
    """The statistic of figure 4, for ``feature_statistics``; its result is a ``FourierResult``."""

    axis: Axis = "exact"

    def __post_init__(self) -> None:
        if self.axis not in get_args(Axis):
            raise ValueError(f"axis: got {self.axis!r}, expected one of {get_args(Axis)}")

    def result(self, network: str, images: int, taps: Sequence[Tap], spectra: Sequence[Spectrum]) -> FourierResult:
        sizes = tuple(spectrum.size for spectrum in spectra)
        labels, values = zip(*(spectrum.half_diagonal(self.axis) for spectrum in spectra), strict=True)
        labels, values = (tuple(array.numpy() for array in arrays) for arrays in (labels, values))
        return FourierResult(network, images, tuple(taps), sizes, labels, values, self.axis)


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
