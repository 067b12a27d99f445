"""One operator's eigenvalues: the largest as bars with residuals, and the spectral density on a logarithmic axis."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.figure import Figure

from alternet.analysis.density import SpectralDensity
from alternet.analysis.figures.style import GREY, save_figure

POINTS = 600
LOWEST = 1e-7  # of the peak: below it the curve is the Gaussian's own tail
COLOUR = "#0072B2"


def draw_density(density: SpectralDensity, path: str | os.PathLike[str]) -> None:
    """The smoothed density with twice its standard error over the probes."""
    margin = 0.04 * (float(np.ptp(density.nodes)) or 1.0)
    grid = np.linspace(density.nodes.min() - margin, density.nodes.max() + margin, POINTS)
    curve, error = density.curve(grid)

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        floor = LOWEST * curve.max()
        if np.isfinite(error).all():
            low, high = (np.maximum(curve + sign * 2 * error, floor) for sign in (-1, 1))
            axes.fill_between(grid, low, high, color=COLOUR, alpha=0.22, linewidth=0)
        axes.plot(grid, np.maximum(curve, floor), color=COLOUR, linewidth=1.6)
        axes.axvline(0, color=GREY, linewidth=0.9)
        axes.set(yscale="log", ylim=(floor, 3 * curve.max()), xlabel="eigenvalue", ylabel="density")
        probes, steps = density.nodes.shape
        axes.set_title(f"Spectral density: {probes} probes of {steps} products, n = {density.size:,}")

    save_figure(path, fill, 4.2)


def draw_eigenvalues(values: np.ndarray, residuals: np.ndarray, path: str | os.PathLike[str]) -> None:
    """values: [k] as bars, residuals: [k] as error bars."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        ranks = np.arange(1, len(values) + 1)
        axes.bar(ranks, values, color=np.where(values < 0, "#D55E00", COLOUR), width=0.7)
        axes.errorbar(ranks, values, residuals, fmt="none", ecolor="#222222", capsize=3)
        axes.axhline(0, color=GREY, linewidth=0.9)
        axes.set(xlabel="rank by magnitude", ylabel="eigenvalue", xticks=ranks)
        axes.set_title("Eigenvalues of largest magnitude, with residual bounds")

    save_figure(path, fill, 3.6)
