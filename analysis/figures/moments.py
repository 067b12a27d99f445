"""Trace and Frobenius norm of operators, with their errors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alternet.analysis.figures.style import GREY, save_figure
from alternet.analysis.solvers.trace import Moments

COLOUR = "#0072B2"


def draw_moments(found: Mapping[str, Moments], path: str | os.PathLike[str]) -> None:
    """Both estimates with twice their standard error, a panel each with a row for every operator.

    ``found`` goes by what the operators are of. Raises ValueError where there are none.
    """
    if not found:
        raise ValueError("found: got none, expected at least one Moments")
    save_figure(path, partial(_draw, found), 1.6 + 0.5 * len(found))


def _draw(found: Mapping[str, Moments], figure: Figure) -> None:
    trace, norm = figure.subplots(1, 2, sharey=True)
    _draw_estimates(trace, [(each.trace, each.trace_error) for each in found.values()])
    _draw_estimates(norm, [(each.frobenius, _frobenius_error(each)) for each in found.values()])
    trace.set_title("Trace, Σ λ")
    norm.set_title("Frobenius norm, √(Σ λ²)")
    trace.set_yticks(range(len(found)), list(found))
    trace.set_ylim(len(found) - 0.4, -0.6)  # the first on top
    products = max(each.products for each in found.values())
    figure.suptitle(f"Moments of the eigenvalues, from {products} products (bars: twice the standard error)")


def _draw_estimates(axes: Axes, estimates: Sequence[tuple[float, float]]) -> None:
    for row, (value, error) in enumerate(estimates):
        known = not math.isnan(error)
        bar = 2 * error if known else None
        axes.errorbar(value, row, xerr=bar, fmt="o", color=COLOUR, ecolor="#222222", capsize=4, markersize=6)
        text = f"{value:.4g} ± {2 * error:.2g}" if known else f"{value:.4g}"
        axes.annotate(text, (value, row), (0, 9), textcoords="offset points", ha="center", color=GREY, fontsize=9)
    axes.axvline(0, color=GREY, linewidth=0.9)
    axes.margins(x=0.25)


def _frobenius_error(found: Moments) -> float:
    """That of the root, to first order; NaN where the norm is 0."""
    return found.squared_frobenius_error / (2 * found.frobenius) if found.frobenius else math.nan
