"""Figure 7: the similarity (CKA) of layers as heat maps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from alternet.analysis.features.similarity import SimilarityResult
from alternet.analysis.features.taps import Tap, stage_ends
from alternet.analysis.figures.style import (
    ABREAST,
    WIDTH,
    images_shown,
    kind_handles,
    kind_mark,
    save_figure,
)

COLOURS = "magma"  # its lightness grows evenly, whatever the colour vision
MISSING = "#B8C4D0"
LARGEST = 6.0  # inches of a map's side
POINTS = 72  # of an inch
STRIP = 6.0  # points from a map to the middle of the marks
BOUNDARY: dict[str, Any] = {
    "color": "white",
    "linewidth": 0.8,
    "path_effects": [withStroke(linewidth=2.2, foreground="black")],  # seen on light and dark
}


def draw_similarity(results: Sequence[SimilarityResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 7, a heat map of CKA per result from layer 0 at the lower left, an other network along x.

    Lines part stages. Colours go from 0 (and below) to 1 in all. Raises ValueError where there are no results.
    """
    if not results:
        raise ValueError("results: got none, expected at least one SimilarityResult")
    columns = min(len(results), ABREAST)
    side = min(0.83 * WIDTH / columns, LARGEST)
    save_figure(path, partial(_draw, results, side), height=0.9 + (side + 0.4) * math.ceil(len(results) / columns))


def _draw(results: Sequence[SimilarityResult], side: float, figure: Figure) -> None:
    columns = min(len(results), ABREAST)
    panels = figure.subplots(math.ceil(len(results) / columns), columns, squeeze=False).ravel().tolist()
    for axes in panels[len(results) :]:
        axes.remove()
    used = panels[: len(results)]
    colours = colormaps[COLOURS].with_extremes(bad=MISSING)
    for axes, result in zip(used, results, strict=True):
        image = axes.imshow(result.cka, cmap=colours, vmin=0, vmax=1, origin="lower", aspect="auto")
        axes.set_box_aspect(1)
        _draw_layers(axes, result, side, figure)
    figure.colorbar(image, cax=used[columns - 1].inset_axes((1.04, 0, 0.05, 1)), label="CKA")
    _draw_legend(figure, results)
    figure.suptitle(f"Similarity of layers ({images_shown(results)})")


def _draw_layers(axes: Axes, result: SimilarityResult, side: float, figure: Figure) -> None:
    """Numbers and kinds of the layers along both axes, and the boundaries of stages."""
    if result.other is None:
        axes.set(title=result.network, xlabel="layer", ylabel="layer")
    else:
        axes.set(title="between two networks", xlabel=result.other, ylabel=result.network)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.set_tick_params(length=0, pad=2 * STRIP)
    # Marks in a strip between the map and its numbers.
    below = axes.get_xaxis_transform() + ScaledTranslation(0, -STRIP / POINTS, figure.dpi_scale_trans)
    beside = axes.get_yaxis_transform() + ScaledTranslation(-STRIP / POINTS, 0, figure.dpi_scale_trans)
    for number, tap in enumerate(result.other_taps):
        axes.plot(number, 0, transform=below, **_mark(tap, len(result.other_taps), side))
    for number, tap in enumerate(result.taps):
        axes.plot(0, number, transform=beside, **_mark(tap, len(result.taps), side))
    for end in stage_ends(result.other_taps):
        axes.axvline(end + 0.5, **BOUNDARY)
    for end in stage_ends(result.taps):
        axes.axhline(end + 0.5, **BOUNDARY)


def _mark(tap: Tap, layers: int, side: float) -> dict[str, Any]:
    size = min(5.0, 0.7 * side * POINTS / layers)  # neighbours do not touch
    return {**kind_mark(tap.kind), "markersize": size, "markeredgewidth": 0.12 * size, "clip_on": False}


def _draw_legend(figure: Figure, results: Sequence[SimilarityResult]) -> None:
    taps = [tap for result in results for tap in (*result.taps, *result.other_taps)]
    handles: list[Line2D | Patch] = [*kind_handles(taps)]
    if any(tap.stage > 1 for tap in taps):
        handles.append(Line2D([], [], label="between two stages", **BOUNDARY))
    if any(np.isnan(result.cka).any() for result in results):
        handles.append(Patch(facecolor=MISSING, label="a layer alike for all images"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
