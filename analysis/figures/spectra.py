"""Figure 2: densities of the Hessian eigenvalues of largest magnitude."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from alternet.analysis.figures.eigenvalue_axis import EigenvalueScale, draw_eigenvalue_density, shade_negative
from alternet.analysis.figures.style import GREY, network_colours, save_figure
from alternet.analysis.studies.spectra import FEWEST, SpectraResult, ape, nep


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
    scale = EigenvalueScale.fitting(samples)
    for result, sample in zip(results, samples, strict=True):
        draw_eigenvalue_density(curves, sample, scale, colours[result.network], _label(result))
    curves.set(ylabel="density (area = proportion)", ylim=(0, None), yticks=[])
    enough = any(len(result.values) >= FEWEST for result in results)
    note = "in brackets: 95 % intervals over mini-batches" if enough else None
    legend = curves.legend(  # above: peaks may be anywhere
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, title=note, title_fontsize=9, alignment="left"
    )
    legend.get_title().set_color(GREY)

    names = [result.network for result in results]
    ticks.eventplot(samples, colors=[colours[name] for name in names], linewidths=0.8, linelengths=0.7)
    ticks.set_yticks(range(len(names)), names)
    ticks.invert_yaxis()
    ticks.grid(visible=False)
    ticks.set_xlabel("eigenvalue of largest magnitude of a mini-batch's Hessian" + scale.note)
    scale.apply(ticks, np.concatenate(samples))
    for axes in (curves, ticks):
        shade_negative(axes)
    curves.text(0.008, 0.975, "negative:\nnot convex", transform=curves.transAxes, va="top", color=GREY, fontsize=9)
    figure.suptitle(title)


def _label(result: SpectraResult) -> str:
    negative, positive = nep(result.values), ape(result.values)
    proportion = f"NEP {100 * negative.value:.3g}%{_interval(100 * negative.low, 100 * negative.high)}"
    if math.isnan(positive.value):
        return f"{result.network}:  {proportion},  no positive eigenvalue"
    return f"{result.network}:  {proportion},  APE {positive.value:.3g}{_interval(positive.low, positive.high)}"


def _interval(low: float, high: float) -> str:
    """In brackets; nothing where too few mini-batches give none."""
    return "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
