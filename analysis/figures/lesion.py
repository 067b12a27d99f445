"""Figure 7: accuracy drops without single units of a network, against their depth."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alternet.analysis.figures.style import (
    ABREAST,
    GREY,
    depth_legend,
    draw_marks,
    images_shown,
    network_colours,
    save_figure,
)
from alternet.analysis.interventions import LesionResult


def draw_lesion(results: Sequence[LesionResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 7, one panel per network, all with the same scale; lines are 95 % intervals over test images.

    Accuracies of the whole networks are in the titles. Raises ValueError where there are no results.
    """
    if not results:
        raise ValueError("results: got none, expected at least one LesionResult")
    save_figure(path, partial(_draw, results), height=0.9 + 3.3 * math.ceil(len(results) / ABREAST))


def _draw(results: Sequence[LesionResult], figure: Figure) -> None:
    columns = min(len(results), ABREAST)
    panels = figure.subplots(math.ceil(len(results) / columns), columns, sharey=True, squeeze=False)
    colours = network_colours(result.network for result in results)
    for axes in panels.ravel()[len(results) :]:
        axes.remove()
    for axes, result in zip(panels.ravel(), results, strict=False):
        _draw_drops(axes, result, colours[result.network])
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy drop (percentage points)")
    depth_legend(figure, (unit for result in results for unit in result.units), shaded=False)
    figure.suptitle(f"Accuracy lost without one unit ({images_shown(results)}; lines: 95 % intervals over images)")


def _draw_drops(axes: Axes, result: LesionResult, colour: str) -> None:
    drops, depths = result.drops, [unit.depth for unit in result.units]
    axes.axhline(0, color=GREY, linewidth=0.9)
    axes.vlines(depths, 0, [each.value for each in drops], color=colour, alpha=0.35, linewidth=4)
    axes.vlines(depths, [each.low for each in drops], [each.high for each in drops], color=colour, linewidth=1.4)
    draw_marks(axes, result.units, [each.value for each in drops], result.boundaries)
    axes.set_title(f"{result.network}  ({result.accuracy:.1%})")
