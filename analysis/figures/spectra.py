"""Figure 2: densities of the Hessian eigenvalues of largest magnitude."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from alternet.analysis.figures.style import GREY, network_colours, save_figure
from alternet.analysis.spectra import SpectraResult, ape, density, nep, silverman

BENT_FROM = 8  # largest eigenvalue over the smallest network's median beyond which a linear axis hides that network
POINTS = 400  # of each curve


def draw_spectra(
    results: Sequence[SpectraResult], path: str | os.PathLike[str], *, title: str = "Hessian max-eigenvalue spectra"
) -> None:
    """Draw figure 2, all networks in one panel. NEP and APE, with their 95 % intervals, are in the legend.

    Areas are proportions, and none of them leaks over 0: the area left of it is the NEP. The eigenvalues themselves
    are below, one tick each. Where networks differ so much that a linear axis would hide one of them, the axis is
    linear about 0 and logarithmic further out (asinh), and densities are those along this axis.

    Raises:
        ValueError: no results, or one without eigenvalues.
    """
    if not results:
        raise ValueError("results: got none, expected at least one SpectraResult")
    for result in results:
        if not result.values.size:
            raise ValueError(f"results: {result.network} has no eigenvalues")
    save_figure(path, partial(_draw, results, title), height=5.2)


def _draw(results: Sequence[SpectraResult], title: str, figure: Figure) -> None:
    curves, ticks = figure.subplots(2, 1, sharex=True, height_ratios=[6, 0.35 * (1 + len(results))])
    colours = network_colours(result.network for result in results)
    samples = [result.values.ravel() for result in results]
    scale = _Scale.fitting(samples)
    for result, sample in zip(results, samples, strict=True):
        _draw_density(curves, sample, scale, colours[result.network], _label(result))
    curves.set(ylabel="density (area = proportion)", ylim=(0, None), yticks=[])
    if any(len(result.values) > 1 for result in results):
        note = "in brackets: 95 % intervals over mini-batches"
        curves.set_title(note, loc="right", fontsize=9, color=GREY, weight="normal")
    curves.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)  # above: peaks may be anywhere

    names = [result.network for result in results]
    ticks.eventplot(samples, colors=[colours[name] for name in names], linewidths=0.8, linelengths=0.7)
    ticks.set_yticks(range(len(names)), names)
    ticks.invert_yaxis()
    ticks.grid(visible=False)
    ticks.set_xlabel("eigenvalue of largest magnitude of a mini-batch's Hessian" + scale.note)
    scale.apply(ticks, np.concatenate(samples))
    for axes in (curves, ticks):
        left = axes.get_xlim()[0]
        axes.axvspan(left, 0, facecolor="#D55E00", alpha=0.06, linewidth=0)
        axes.set_xlim(left=left)
        axes.axvline(0, color=GREY, linewidth=0.8)
    curves.text(0.008, 0.975, "negative:\nnot convex", transform=curves.transAxes, va="top", color=GREY, fontsize=9)
    figure.suptitle(title)


@dataclass(frozen=True)
class _Scale:
    """A horizontal axis: linear, or where ``width`` is given asinh(λ / width), linear up to about there."""

    width: float | None

    @classmethod
    def fitting(cls, samples: Sequence[np.ndarray]) -> _Scale:
        smallest = min(np.median(np.abs(sample)) for sample in samples)
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


def _draw_density(axes: Axes, sample: np.ndarray, scale: _Scale, colour: str, label: str) -> None:
    """A kernel density along the bent axis, drawn as two curves that end at 0: each side keeps its own mass."""
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
    """Silverman's; for a sample without spread, a hundredth of its size."""
    return silverman(sample) or 0.01 * float(np.abs(sample).max()) or 1.0


def _label(result: SpectraResult) -> str:
    negative, positive = nep(result.values), ape(result.values)
    proportion = f"NEP {100 * negative.value:.3g}%{_interval(100 * negative.low, 100 * negative.high)}"
    if math.isnan(positive.value):
        return f"{result.network}:  {proportion},  no positive eigenvalue"
    return f"{result.network}:  {proportion},  APE {positive.value:.3g}{_interval(positive.low, positive.high)}"


def _interval(low: float, high: float) -> str:
    """In brackets; nothing where a single mini-batch gives none."""
    return "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
