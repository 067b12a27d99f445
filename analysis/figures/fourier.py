"""Figure 4: relative log amplitudes over frequency and, at the highest frequency, over depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from alternet.analysis.figures.style import depth_legend, draw_depth_curve, network_colours, save_figure
from alternet.analysis.fourier import FourierResult


def draw_fourier(results: Sequence[FourierResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 4, one column per network: spectra coloured by depth; below, Δ log amplitude against depth.

    Raises ValueError where there are no results, or results on two different frequency axes.
    """
    if not results:
        raise ValueError("results: got none, expected at least one FourierResult")
    axes = {result.axis for result in results}
    if len(axes) > 1:
        raise ValueError(f"results: got frequency axes {sorted(axes)}, expected one and the same for all networks")
    save_figure(path, partial(_draw, results), height=6.4)


def _draw(results: Sequence[FourierResult], figure: Figure) -> None:
    panels = figure.subplots(2, len(results), sharey="row", squeeze=False)
    colours = network_colours(result.network for result in results)
    by_depth = _depth_colours()
    for (spectra, trend), result in zip(panels.T, results, strict=True):
        _draw_spectra(spectra, result, by_depth)
        draw_depth_curve(trend, result.taps, result.high_frequency, colours[result.network])
    panels[0, 0].set_ylabel("relative log amplitude")
    panels[1, 0].set_ylabel("Δ log amplitude at 1.0π")
    figure.align_ylabels(panels[:, 0])
    scale = ScalarMappable(Normalize(0, 1), by_depth)
    figure.colorbar(scale, ax=panels[0].tolist(), label="normalised depth", pad=0.01, aspect=30)
    depth_legend(figure, (tap for result in results for tap in result.taps))
    suffix = " (the authors' frequency axis)" if results[0].axis == "paper" else ""
    figure.suptitle(f"Fourier analysis of feature maps: how much high frequency is left{suffix}")


def _draw_spectra(axes: Axes, result: FourierResult, by_depth: Colormap) -> None:
    for tap, frequencies, values in zip(result.taps, result.frequencies, result.relative, strict=True):
        if len(values) > 1:  # a single pixel has only frequency 0
            axes.plot(frequencies, values, color=by_depth(tap.depth), linewidth=1.5)
    axes.set(title=f"{result.network}  ({result.images:,} images)", xlabel="frequency", xlim=(0, 1))
    axes.set_xticks(np.linspace(0, 1, 6), ["0", "0.2π", "0.4π", "0.6π", "0.8π", "1.0π"])


def _depth_colours() -> Colormap:
    """Plasma without its last, palest tenth, which is hard to see on white."""
    return ListedColormap(colormaps["plasma"](np.linspace(0, 0.9, 256)))
