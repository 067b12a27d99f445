"""Figure 6: the variance of feature maps against depth."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from alternet.analysis.features.variance import VarianceResult
from alternet.analysis.figures.style import (
    ABREAST,
    depth_legend,
    draw_depth_curve,
    images_shown,
    network_colours,
    save_figure,
)

LOGARITHMIC_FROM = 30  # largest over smallest variance of a network beyond which a linear axis hides the small ones


def draw_variance(results: Sequence[VarianceResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 6, one panel per network, each with a scale of its own; a logarithmic one where its range demands it.

    Variances of different networks are in different units, so that only their course within a network says something.
    Raises ValueError where there are no results.
    """
    if not results:
        raise ValueError("results: got none, expected at least one VarianceResult")
    save_figure(path, partial(_draw, results), height=0.8 + 3.1 * math.ceil(len(results) / ABREAST))


def _draw(results: Sequence[VarianceResult], figure: Figure) -> None:
    columns = min(len(results), ABREAST)
    panels = figure.subplots(math.ceil(len(results) / columns), columns, squeeze=False).ravel()
    colours = network_colours(result.network for result in results)
    for axes in panels[len(results) :]:
        axes.remove()
    for axes, result in zip(panels, results, strict=False):
        draw_depth_curve(axes, result.taps, result.variance, colours[result.network])
        axes.set_title(result.network)
        if _spread(result.variance) > LOGARITHMIC_FROM:
            axes.set_yscale("log")
            axes.set_ylabel("variance (logarithmic)")
        else:
            axes.set_ylim(bottom=0)
            axes.set_ylabel("variance")
    depth_legend(figure, (tap for result in results for tap in result.taps))
    figure.suptitle(f"Variance of feature maps along the network ({images_shown(results)})")


def _spread(variance: np.ndarray) -> float:
    """Largest over smallest of the positive values; 1 where there are none."""
    positive = variance[variance > 0]
    return float(positive.max() / positive.min()) if len(positive) else 1.0
