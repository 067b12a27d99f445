"""The axis of Hessian eigenvalues of several networks, whose sizes may lie far apart, and densities along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from alternet.analysis.figures.style import GREY
from alternet.analysis.studies.spectra import density, silverman

BENT_FROM = 8  # largest eigenvalue over the smallest sample's median beyond which a linear axis hides that sample
POINTS = 400  # of each curve


@dataclass(frozen=True)
class EigenvalueScale:
    """A horizontal axis: linear, or where ``width`` is given asinh(λ / width), linear up to about there."""

    width: float | None

    @classmethod
    def fitting(cls, samples: Sequence[np.ndarray]) -> EigenvalueScale:
        medians = [np.median(np.abs(sample)) for sample in samples]
        smallest = min((median for median in medians if median > 0), default=0.0)  # zeros are seen on any axis
        largest = max(np.abs(sample).max() for sample in samples)
        return cls(float(smallest) / 2 if 0 < BENT_FROM * smallest < largest else None)

    @property
    def note(self) -> str:
        return "" if self.width is None else "  (axis: linear about 0, logarithmic further out)"

    def bend(self, values: np.ndarray) -> np.ndarray:
        return values if self.width is None else np.arcsinh(values / self.width)

    def unbend(self, values: np.ndarray) -> np.ndarray:
        return values if self.width is None else np.sinh(values) * self.width

    def apply(self, axes: Axes, values: np.ndarray) -> None:
        """Give ``axes`` this scale, from a little below to a little above ``values``, 0 always inside."""
        bent = self.bend(np.append(values, 0.0))
        margin = 0.06 * (np.ptp(bent) or 1.0)
        low, high = self.unbend(np.array([bent.min() - margin, bent.max() + margin])).tolist()
        if self.width is not None:
            axes.set_xscale("asinh", linear_width=self.width)
            axes.set_xticks(self._ticks(low, high))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(low, high)

    def _ticks(self, low: float, high: float) -> list[float]:
        """0, and on both sides the powers of ten, with their threefold, from half of ``width`` on."""
        assert self.width is not None
        first, last = math.floor(math.log10(self.width / 2)), math.ceil(math.log10(max(-low, high)))
        sizes = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 3)]
        ticks = [sign * size for size in sizes if size >= self.width / 2 for sign in (-1, 1)]
        return [0.0, *(tick for tick in ticks if low <= tick <= high)]


def draw_eigenvalue_density(axes: Axes, sample: np.ndarray, scale: EigenvalueScale, colour: str, label: str) -> None:
    """A kernel density of sample: [n] along the bent axis, as two curves that end at 0: each side keeps its mass."""
    bent = scale.bend(sample)
    bandwidth = _bandwidth(bent)
    for sign in (-1, 1):
        side = np.abs(bent[bent < 0] if sign < 0 else bent[bent >= 0])
        if side.size == 0:
            continue
        at = np.linspace(0, side.max() + 4 * bandwidth, POINTS)
        mirrored = np.concatenate([side, -side])  # what a kernel would put over 0 comes back
        height = density(mirrored, at, bandwidth=bandwidth) * mirrored.size / bent.size
        where = scale.unbend(sign * at)
        axes.fill_between(where, height, color=colour, alpha=0.22, linewidth=0)
        axes.plot(where, height, color=colour, linewidth=1.8, label=label)
        label = "_"  # one entry in the legend, whichever side came first


def _bandwidth(sample: np.ndarray) -> float:
    """Silverman's, of the spread within the two sides of 0, not between them; without any, a hundredth of a side."""
    sides = [side for side in (sample[sample < 0], sample[sample >= 0]) if side.size]
    within = np.concatenate([side - np.median(side) for side in sides])
    return silverman(within) or 0.01 * float(np.abs(sample).max()) or 1.0


def shade_negative(axes: Axes) -> None:
    """The side where the loss is not convex; limits stay as they are."""
    left = axes.get_xlim()[0]
    axes.axvspan(left, 0, facecolor="#D55E00", alpha=0.06, linewidth=0)
    axes.set_xlim(left=left)
    axes.axvline(0, color=GREY, linewidth=0.8)
