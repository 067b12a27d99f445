"""Figure 1: the loss on a plane through the weights, as a surface and as contours."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from alternet.analysis.figures.style import ABREAST, images_shown, save_figure
from alternet.analysis.landscape.result import LandscapeResult

COLOURS = "viridis"  # told apart with any colour vision, and by lightness alone
ABOUT = 0.03  # of a panel's points are about its minimum: a disc of two steps of the grid of 21
LABELS = 16  # at most, of the scale
MANY = 1e6  # times the lowest level: beyond, every power of ten is one
CENTRE: dict[str, Any] = {"marker": "P", "color": "#FFFFFF", "markersize": 8, "markeredgecolor": "#222222"}
HOLES: dict[str, Any] = {"facecolor": "#D9D9D9", "hatch": "///", "edgecolor": "#999999", "linewidth": 0}
TERMS = {"nll": "NLL", "loss": "NLL + L2"}


def draw_landscape(results: Sequence[LandscapeResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 1, one column per network: the surface of the loss, its contours, and those of the NLL alone.

    Colours are the rise above a panel's minimum on one logarithmic scale, the same in all of them, for losses of
    networks differ by their L2 terms, and their slopes by orders of magnitude; the surface's height is the loss itself.
    Without an L2 term the third row would repeat the second. A cross marks the network, hatches a loss that is not
    finite.

    Raises:
        ValueError: no results, or several of different directions (``normalize``) or forms of L2.
    """
    if not results:
        raise ValueError("results: got none, expected at least one LandscapeResult")
    kinds = {(result.normalize, result.l2_form) for result in results}
    if len(kinds) > 1:
        raise ValueError(f"results: got landscapes of several kinds, {sorted(kinds)}, expected one")
    shown = ["loss", "nll"] if any(result.weight_decay for result in results) else ["nll"]
    bands = math.ceil(len(results) / ABREAST)
    save_figure(path, partial(_draw, results, shown), height=1.4 + bands * (3.0 + 2.8 * len(shown)))


def _draw(results: Sequence[LandscapeResult], shown: Sequence[str], figure: Figure) -> None:
    columns = min(len(results), ABREAST)
    rows = 1 + len(shown)
    grid = figure.add_gridspec(rows * math.ceil(len(results) / columns), columns)
    levels = _levels([_rise(getattr(result, what)) for result in results for what in shown])
    norm = BoundaryNorm(levels, colormaps[COLOURS].N, extend="both")
    panels: list[Axes] = []
    filled: Any = None
    for number, result in enumerate(results):
        band, column = divmod(number, columns)
        surface = figure.add_subplot(grid[band * rows, column], projection="3d")
        _draw_surface(surface, result, shown[0], norm)
        panels.append(surface)
        for row, what in enumerate(shown, start=1):
            axes = figure.add_subplot(grid[band * rows + row, column])
            filled = _draw_contours(axes, result, what, levels, norm)
            panels.append(axes)
    label = "rise above the minimum of the panel"
    ticks = levels[:: math.ceil(len(levels) / LABELS)]
    scale = figure.colorbar(filled, ax=panels, location="bottom", aspect=50, pad=0.02, ticks=ticks, label=label)
    scale.ax.set_xticks(ticks, [f"{level:g}" for level in ticks])
    scale.ax.minorticks_off()
    if any(not np.isfinite(result.nll).all() for result in results):
        figure.legend(handles=[Patch(label="not finite", **HOLES)], loc="outside lower right")
    figure.suptitle(_title(results))


def _draw_surface(axes: Any, result: LandscapeResult, what: str, norm: BoundaryNorm) -> None:
    values = getattr(result, what)
    colours = colormaps[COLOURS](norm(_rise(values)))  # nothing where it is masked
    grid = np.meshgrid(result.x, result.y)
    axes.plot_surface(*grid, values, facecolors=colours, rcount=len(result.y), ccount=len(result.x), shade=False)
    axes.set_title(result.network)
    axes.text2D(0.02, 0.9, TERMS[what], transform=axes.transAxes)  # a label of the axis would not be kept on the page
    axes.set(xticks=_ticks(result.x), yticks=_ticks(result.y))
    axes.zaxis.set_major_formatter("{x:g}")
    axes.tick_params(pad=0)


def _draw_contours(axes: Axes, result: LandscapeResult, what: str, levels: Sequence[float], norm: BoundaryNorm) -> Any:
    values = getattr(result, what)
    rise = _rise(values)
    if not np.isfinite(values).all():
        axes.add_patch(Rectangle((result.x[0], result.y[0]), np.ptp(result.x), np.ptp(result.y), **HOLES, zorder=0))
    filled = axes.contourf(result.x, result.y, rise, levels, norm=norm, cmap=COLOURS, extend="both")
    axes.contour(result.x, result.y, rise, levels, colors="white", linewidths=0.4, alpha=0.6)
    axes.plot(0, 0, **CENTRE)
    axes.set_title(f"{TERMS[what]} (minimum {np.nanmin(values):.3g})", fontweight="normal", fontsize=9.5)
    axes.set(aspect="equal", xticks=_ticks(result.x), yticks=_ticks(result.y))
    axes.grid(visible=False)
    return filled


def _ticks(line: np.ndarray) -> list[float]:
    return [line[0], line[0] / 2, 0.0, line[-1] / 2, line[-1]]


def _rise(values: np.ndarray) -> np.ma.MaskedArray:
    """Above the minimum; masked where it is not finite."""
    return np.ma.masked_invalid(values - np.nanmin(values))


def _levels(rises: Sequence[np.ma.MaskedArray]) -> list[float]:
    """1, 2, 5, 10, … from where the points about the minimum of the flattest panel lie to the highest of all."""
    high = max(float(rise.max()) for rise in rises) or 1.0
    about = (float(np.quantile(rise.compressed(), ABOUT)) for rise in rises)
    low = min((rise for rise in about if rise > 0), default=high / 100)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 5) if high < MANY * low else (1,)
    levels = [step * 10.0**power for power in powers for step in steps]
    first = max(number for number, level in enumerate(levels) if level <= low)
    last = min(number for number, level in enumerate(levels) if level >= high)
    return levels[first : max(first + 1, last) + 1]


def _title(results: Sequence[LandscapeResult]) -> str:
    """With what is not as it should be, but as in the authors' code."""
    quirks = {"directions normalised over the first axis": results[0].normalize, "L2 unsquared": results[0].l2_form}
    notes = [images_shown(results), *(note for note, kind in quirks.items() if kind == "paper")]
    return f"Loss on a plane through the weights ({'; '.join(notes)})"
