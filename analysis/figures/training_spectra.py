"""Figure 2 over training: densities epoch below epoch, and NEP and APE over epochs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from alternet.analysis.figures.eigenvalue_axis import EigenvalueScale, draw_eigenvalue_density, shade_negative
from alternet.analysis.figures.style import draw_band, network_colours, save_figure
from alternet.analysis.studies.spectra import Estimate, ape, nep
from alternet.analysis.studies.training_spectra import Course

LOGARITHMIC_FROM = 30  # largest over smallest APE beyond which a linear axis hides the small ones


def draw_training_spectra(course: Course, path: str | os.PathLike[str], *, unit: str = "epoch") -> None:
    """Draw the densities of all networks, a panel per epoch (called ``unit``), as ``draw_spectra`` draws them.

    The axis of eigenvalues is the same for all panels; the height is each panel's own. Raises ValueError where there
    is nothing to draw.
    """
    _check(course)
    epochs = sorted({epoch for of in course.values() for epoch in of})
    save_figure(path, partial(_draw_densities, course, epochs, unit), height=1.5 + 0.95 * len(epochs))


def draw_estimates(course: Course, path: str | os.PathLike[str], *, unit: str = "epoch") -> None:
    """Draw NEP and APE over epochs (called ``unit``), with 95 % intervals over mini-batches (bands, or bars).

    Raises ValueError where there is nothing to draw.
    """
    _check(course)
    save_figure(path, partial(_draw_estimates, course, unit), height=4.0)


def _check(course: Course) -> None:
    if not any(course.values()):
        raise ValueError("course: got no spectra, expected those of at least one network")


def _draw_densities(course: Course, epochs: list[int], unit: str, figure: Figure) -> None:
    panels = figure.subplots(len(epochs), 1, sharex=True, squeeze=False)[:, 0]
    colours = network_colours(course)
    samples = [result.values.ravel() for of in course.values() for result in of.values()]
    scale = EigenvalueScale.fitting(samples)
    for axes, epoch in zip(panels, epochs, strict=True):
        for network, of in course.items():
            if epoch in of:
                draw_eigenvalue_density(axes, of[epoch].values.ravel(), scale, colours[network], network)
        axes.set(ylim=(0, None), yticks=[])
        axes.set_ylabel(f"{unit} {epoch}", rotation=0, ha="right", va="center")
    scale.apply(panels[-1], np.concatenate(samples))
    for axes in panels:
        shade_negative(axes)
    panels[-1].set_xlabel("eigenvalue of largest magnitude of a mini-batch's Hessian" + scale.note)
    handles = [Patch(color=colours[network], alpha=0.6, label=network) for network in course]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle("Hessian max-eigenvalue spectra over training")


def _draw_estimates(course: Course, unit: str, figure: Figure) -> None:
    proportion, average = figure.subplots(1, 2, sharex=True)  # APE may be without a value
    _draw_bands(proportion, course, lambda values: _scaled(nep(values), 100))
    _draw_bands(average, course, ape)
    proportion.set(title="Negative eigenvalue proportion (NEP)", ylabel="per cent", ylim=(0, None))
    average.set(title="Average positive eigenvalue (APE)", ylabel="eigenvalue")
    averages = [ape(result.values).value for of in course.values() for result in of.values()]
    positive = [average for average in averages if not math.isnan(average)]
    if positive and max(positive) > LOGARITHMIC_FROM * min(positive):
        average.set_yscale("log")
        average.set_ylabel("eigenvalue (logarithmic)")
    else:
        average.set_ylim(bottom=0)
    for axes in (proportion, average):
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*proportion.get_legend_handles_labels(), loc="outside lower center", ncols=len(course))
    figure.suptitle("Largest Hessian eigenvalues over training (bands, bars: 95 % intervals over mini-batches)")


def _draw_bands(axes: Axes, course: Course, estimate: Callable[[np.ndarray], Estimate]) -> None:
    colours = network_colours(course)
    for network, of in course.items():
        epochs = sorted(of)
        found = [estimate(of[epoch].values) for epoch in epochs]
        draw_band(axes, epochs, found, colours[network], network)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(factor * estimate.value, factor * estimate.low, factor * estimate.high)
