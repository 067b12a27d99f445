"""What all figures share: colours, marks, panels, and how a figure becomes a file.

Nothing here touches pyplot or its global figures, so that figures can be drawn in any thread and without a display.
Sizes are for a page about 1,000 pixels wide: text comes out at 12 to 14 pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from alternet.analysis.features.taps import Place, Tap, stage_boundaries
from alternet.analysis.files import written_whole
from alternet.analysis.studies.spectra import Estimate

WIDTH = 10.0  # inches
ABREAST = 3  # panels beside each other at that width
DOTS_PER_INCH = 150

# Colours that are told apart with any colour vision: Okabe & Ito's for the paper's families of networks and for kinds
# of layers, P. Tol's muted ones for further networks.
FAMILIES = {"alternet": "#009E73", "vit": "#D55E00", "deit": "#D55E00", "resnet": "#0072B2"}
FURTHER = ("#882255", "#332288", "#999933", *dict.fromkeys(FAMILIES.values()))
KINDS = {"stem": ("o", "#FFFFFF"), "conv": ("s", "#56B4E9"), "msa": ("v", "#CC79A7"), "mlp": ("D", "#E69F00")}
KIND_NAMES = {"stem": "stem", "conv": "convolution block", "msa": "attention (MSA)", "mlp": "MLP"}
SHADE: dict[str, Any] = {"facecolor": "#000000", "alpha": 0.09, "linewidth": 0}
GREY = "#555555"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.titlesize": 12,
}


def network_colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per network: a family's own for its first member, for the others the next that is free."""
    colours: dict[str, str] = {}
    for name in names:
        family = next((colour for word, colour in FAMILIES.items() if word in name.lower()), None)
        free = [colour for colour in (family, *FURTHER) if colour and colour not in colours.values()]
        colours.setdefault(name, free[0] if free else GREY)
    return colours


def images_shown(results: Sequence[Any]) -> str:
    """How many images the results are means over, in words."""
    fewest, most = min(result.images for result in results), max(result.images for result in results)
    return f"{most:,} images" if fewest == most else f"{fewest:,} to {most:,} images"


def save_figure(path: str | os.PathLike[str], draw: Callable[[Figure], None], height: float) -> None:
    """Let ``draw`` fill a figure of the common width and this height (inches), and write it as a PNG, whole."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)


def draw_depth_curve(axes: Axes, taps: Sequence[Tap], values: np.ndarray, colour: str) -> None:
    """``values`` at the taps against normalised depth: marks by kind, attention shaded, stage boundaries dashed.

    NaN stands for maps of one pixel: it is not drawn, but said.
    """
    for before, tap in pairwise(taps):
        if tap.kind == "msa":  # attention acts on the way from the tap before it to its own
            axes.axvspan(before.depth, tap.depth, **SHADE)
    axes.plot([tap.depth for tap in taps], values, color=colour, linewidth=1.6, zorder=2)
    draw_marks(axes, taps, values, stage_boundaries(taps))
    missing = [tap.depth for tap, value in zip(taps, values, strict=True) if np.isnan(value)]
    if missing:
        middle = (missing[0] + missing[-1]) / 2
        centred: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.get_xaxis_transform()}
        axes.text(middle, 0.5, "maps of a single pixel", rotation=90, color=GREY, fontsize=8.5, **centred)


def draw_marks(axes: Axes, places: Sequence[Place], values: Iterable[float], boundaries: Iterable[float]) -> None:
    """``values`` at places of the network against normalised depth: marks by kind, boundaries of stages dashed."""
    for boundary in boundaries:
        axes.axvline(boundary, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    marked = list(zip(places, values, strict=True))
    for kind in KINDS:
        points = [(place.depth, value) for place, value in marked if place.kind == kind]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", zorder=3, **kind_mark(kind))
    axes.set(xlabel="normalised depth", xlim=(-0.03, 1.03), ymargin=0.08)


def draw_band(axes: Axes, positions: Sequence[float], found: Sequence[Estimate], colour: str, label: str) -> None:
    """A curve of estimates with their intervals: a band, or of a single one a bar."""
    bounds = [each.low for each in found], [each.high for each in found]
    if len(found) > 1:
        axes.fill_between(positions, *bounds, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.vlines(positions, *bounds, color=colour, alpha=0.5, linewidth=3)
    values = [each.value for each in found]
    axes.plot(positions, values, color=colour, linewidth=1.8, marker="o", markersize=4.5, label=label)


def depth_legend(figure: Figure, places: Iterable[Place], *, shaded: bool = True) -> None:
    """Say below the panels what the marks, shades (if ``shaded``) and dashes of depth mean, if they occur."""
    places = list(places)
    handles: list[Line2D | Patch] = [*kind_handles(places)]
    if shaded and any(place.kind == "msa" for place in places):
        handles.append(Patch(label="where attention acts", **SHADE))
    if any(place.stage > 1 for place in places):
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="between two stages"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def kind_handles(places: Iterable[Place]) -> list[Line2D]:
    """Entries of a legend for the marks of the kinds that occur."""
    kinds = {place.kind for place in places}
    return [Line2D([], [], linestyle="", label=KIND_NAMES[kind], **kind_mark(kind)) for kind in KINDS if kind in kinds]


def kind_mark(kind: str) -> dict[str, Any]:
    """How ``plot`` marks what follows a layer of this kind."""
    marker, face = KINDS[kind]
    edge = {"markeredgecolor": "#222222", "markeredgewidth": 0.8}
    return {"marker": marker, "markersize": 6.5, "markerfacecolor": face, **edge}
