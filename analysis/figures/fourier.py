"""Figure 4: relative log amplitudes over frequency and, at the highest frequency, over depth."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from alternet.analysis.features.fourier import FourierResult
from alternet.analysis.figures.style import (
    ABREAST,
    depth_legend,
    draw_depth_curve,
    images_shown,
    network_colours,
    save_figure,
)


def draw_fourier(results: Sequence[FourierResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 4, two panels per network: spectra coloured by depth; below, Δ log amplitude against depth.

    Raises ValueError where there are no results, or results on two different frequency axes.
    """
    if not results:
        raise ValueError("results: got none, expected at least one FourierResult")
    axes = {result.axis for result in results}
    if len(axes) > 1:
        raise ValueError(f"results: got frequency axes {sorted(axes)}, expected one and the same for all networks")
    save_figure(path, partial(_draw, results), height=0.8 + 5.6 * math.ceil(len(results) / ABREAST))


def _draw(results: Sequence[FourierResult], figure: Figure) -> None:
    columns = min(len(results), ABREAST)
    bands = math.ceil(len(results) / columns)
    panels = figure.subplots(2 * bands, columns, sharey="row", squeeze=False)
    spectra, trends = panels[0::2].ravel(), panels[1::2].ravel()
    colours = network_colours(result.network for result in results)
    by_depth = _depth_colours()
    for number, result in enumerate(results):
        _draw_spectra(spectra[number], result, by_depth)
        draw_depth_curve(trends[number], result.taps, result.high_frequency, colours[result.network])
    for unused in (*spectra[len(results) :], *trends[len(results) :]):
        unused.remove()
    for left in range(0, len(results), columns):
        spectra[left].set_ylabel("relative log amplitude")
        trends[left].set_ylabel("Δ log amplitude at 1.0π")
    figure.align_ylabels(panels[:, 0])
    scale = ScalarMappable(Normalize(0, 1), by_depth)
    figure.colorbar(scale, ax=spectra[:columns].tolist(), label="normalised depth", pad=0.01, aspect=30)
    depth_legend(figure, (tap for result in results for tap in result.taps))
    axis = ", on the authors' frequency axis" if results[0].axis == "paper" else ""
    figure.suptitle(f"Fourier analysis of feature maps{axis} ({images_shown(results)})")


def _draw_spectra(axes: Axes, result: FourierResult, by_depth: Colormap) -> None:
    for tap, frequencies, values in zip(result.taps, result.frequencies, result.relative, strict=True):
        if len(values) > 1:  # a single pixel has only frequency 0
            axes.plot(frequencies, values, color=by_depth(tap.depth), linewidth=1.5)
    axes.set(title=result.network, xlabel="frequency", xlim=(0, 1))
    axes.set_xticks(np.linspace(0, 1, 6), ["0", "0.2π", "0.4π", "0.6π", "0.8π", "1.0π"])


def _depth_colours() -> Colormap:
    """Plasma without its last, palest tenth, which is hard to see on white."""
    return ListedColormap(colormaps["plasma"](np.linspace(0, 0.9, 256)))
