"""Figure 6: how the variance of feature maps changes with depth.

The unbiased variance of every map over its H·W pixels, averaged over images and channels. Park & Kim, ICLR 2022
(arXiv 2202.06709): attention lowers it (it aggregates feature maps), convolutions and MLPs raise it (they diversify
them), and it peaks at the end of each stage.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from alternet.analysis.features import Tap
from alternet.analysis.files import complete, json_number, load_json, save_csv, save_json
from alternet.kernels.feature_spectrum import Spectrum

KIND = "alternet variance analysis"


@dataclass(frozen=True)
class Variance:
    """The statistic of figure 6, for ``feature_statistics``; its result is a ``VarianceResult``."""

    def result(self, network: str, images: int, taps: Sequence[Tap], spectra: Sequence[Spectrum]) -> VarianceResult:
        sizes = tuple(spectrum.size for spectrum in spectra)
        values = np.array([spectrum.variance.item() for spectrum in spectra])
        return VarianceResult(network, images, tuple(taps), sizes, values)


@dataclass(frozen=True, eq=False)
class VarianceResult:
    """Mean variance of the feature maps at every tap of one network.

    ``variance`` is float64 [taps], in the squared units of the features, and NaN where a map is a single pixel. Taps
    in order of depth; ``map_sizes`` are (height, width).
    """

    network: str
    images: int
    taps: tuple[Tap, ...]
    map_sizes: tuple[tuple[int, int], ...]
    variance: np.ndarray

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads (NaN as null)."""
        rows = [
            {**asdict(tap), "map_size": size, "variance": json_number(value)}
            for tap, size, value in zip(self.taps, self.map_sizes, self.variance.tolist(), strict=True)
        ]
        save_json(path, KIND, {"network": self.network, "images": self.images, "taps": rows})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VarianceResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            rows = content["taps"]
            return cls(
                network=content["network"],
                images=content["images"],
                taps=tuple(Tap.from_row(row) for row in rows),
                map_sizes=tuple((height, width) for height, width in (row["map_size"] for row in rows)),
                variance=np.array([row["variance"] for row in rows], dtype=float),  # None becomes NaN
            )

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per tap, for other programs; the variance of a 1x1 map is ``nan``."""
        rows = (
            [self.network, tap.name, tap.kind, tap.stage, tap.depth, *size, value]
            for tap, size, value in zip(self.taps, self.map_sizes, self.variance.tolist(), strict=True)
        )
        save_csv(path, "network tap kind stage depth height width variance", rows)
