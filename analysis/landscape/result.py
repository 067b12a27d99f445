"""The loss of a network on a grid of points of a plane through its weights, and its two terms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from alternet.analysis.files import complete, load_json, save_csv, save_json

KIND = "alternet loss landscape"
L2_FORMS = ("squared", "paper")
PLAIN = ("network", "images", "normalize", "seed", "weight_decay", "l2_form")
ARRAYS = ("x", "y", "nll", "squared_norm", "sum_of_norms")


@dataclass(frozen=True, eq=False)
class LandscapeResult:
    """Grids are float64 [size, size], entry [i, j] at the point (x[j], y[i]); the weights themselves are in the middle.

    network: the name that results and figures show.
    images: of which the NLL is the mean.
    normalize: how the directions were (see ``random_plane``).
    seed: of the directions.
    weight_decay: of the L2 term.
    l2_form: "squared", ½·weight_decay·‖w‖² as everywhere in this library; "paper", weight_decay times the sum of the
        parameters' unsquared norms, as in the authors' code. ``dataclasses.replace(result, l2_form="paper")`` is the
        same landscape with the other.
    x, y: float64 [size], coordinates along the two directions.
    nll: mean loss of the images, without L2; NaN where it is not finite (a network may overflow far from its weights).
    squared_norm: ‖w‖² over all parameters that require a gradient.
    sum_of_norms: Σ‖·‖ of these parameters, one by one.
    """

    network: str
    images: int
    normalize: str
    seed: int
    weight_decay: float
    l2_form: str
    x: np.ndarray
    y: np.ndarray
    nll: np.ndarray
    squared_norm: np.ndarray
    sum_of_norms: np.ndarray

    @property
    def l2(self) -> np.ndarray:
        """The L2 term [size, size]."""
        if self.l2_form == "paper":
            return self.weight_decay * self.sum_of_norms
        return 0.5 * self.weight_decay * self.squared_norm

    @property
    def loss(self) -> np.ndarray:
        """NLL + L2 [size, size]."""
        return self.nll + self.l2

    @property
    def centre(self) -> float:
        """The loss of the network itself."""
        middle = len(self.x) // 2
        return float(self.loss[middle, middle])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads (NaN as null)."""
        plain = {name: getattr(self, name) for name in PLAIN}
        arrays = {name: json_values(getattr(self, name)) for name in ARRAYS}
        save_json(path, KIND, {**plain, "centre": self.centre, **arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LandscapeResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            plain: dict[str, Any] = {name: content[name] for name in PLAIN}
            arrays: dict[str, Any] = {name: np.array(content[name], dtype=float) for name in ARRAYS}  # None becomes NaN
            return cls(**plain, **arrays)

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per point, row by row, for other programs; what is not finite is ``nan``."""
        grids = [grid.ravel().tolist() for grid in (*np.meshgrid(self.x, self.y), self.nll, self.l2, self.loss)]
        rows = ([self.network, *point] for point in zip(*grids, strict=True))
        save_csv(path, "network x y nll l2 loss", rows)


def json_values(values: np.ndarray) -> list[Any]:
    """Nested lists, with None for what is not finite."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
