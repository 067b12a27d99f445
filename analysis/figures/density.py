"""Eigenvalues of operators: the wanted ones as bars with error bounds, and spectral densities on logarithmic axes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alternet.analysis.figures.style import GREY, save_figure
from alternet.analysis.solvers.density import SpectralDensity

POINTS = 600
LOWEST = 1e-7  # of the peak: below it the curve is the Gaussian's own tail
COLOUR = "#0072B2"


def draw_density(densities: Mapping[str, SpectralDensity], path: str | os.PathLike[str]) -> None:
    """The smoothed densities with twice their standard error over the probes, a panel and an axis of its own each.

    ``densities`` go by what they are of. Raises ValueError where there are none.
    """
    if not densities:
        raise ValueError("densities: got none, expected at least one SpectralDensity")
    save_figure(path, partial(_draw_densities, densities), 0.8 + 3.4 * len(densities))


def _draw_densities(densities: Mapping[str, SpectralDensity], figure: Figure) -> None:
    panels = figure.subplots(len(densities), 1, squeeze=False)[:, 0]
    for axes, (name, density) in zip(panels, densities.items(), strict=True):
        _draw_density(axes, density)
        axes.set_title(f"{name}: n = {density.size:,}")
    panels[-1].set_xlabel("eigenvalue")
    probes, steps = next(iter(densities.values())).nodes.shape
    figure.suptitle(f"Spectral density: {probes} probes of {steps} products (band: twice the standard error)")


def _draw_density(axes: Axes, density: SpectralDensity) -> None:
    margin = 0.04 * (float(np.ptp(density.nodes)) or 1.0)
    grid = np.linspace(density.nodes.min() - margin, density.nodes.max() + margin, POINTS)
    curve, error = density.curve(grid)
    floor = LOWEST * curve.max()
    if np.isfinite(error).all():
        low, high = (np.maximum(curve + sign * 2 * error, floor) for sign in (-1, 1))
        axes.fill_between(grid, low, high, color=COLOUR, alpha=0.22, linewidth=0)
    axes.plot(grid, np.maximum(curve, floor), color=COLOUR, linewidth=1.6)
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.set(yscale="log", ylim=(floor, 3 * curve.max()), ylabel="density")


def draw_eigenvalues(values: np.ndarray, bounds: np.ndarray, path: str | os.PathLike[str]) -> None:
    """values: [k] as bars, bounds: [k] as error bars."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        ranks = np.arange(1, len(values) + 1)
        axes.bar(ranks, values, color=np.where(values < 0, "#D55E00", COLOUR), width=0.7)
        axes.errorbar(ranks, values, bounds, fmt="none", ecolor="#222222", capsize=3)
        axes.axhline(0, color=GREY, linewidth=0.9)
        axes.set(xlabel="rank", ylabel="eigenvalue", xticks=ranks)
        axes.set_title("Eigenvalues, with bounds of their errors")

    save_figure(path, fill, 3.6)
