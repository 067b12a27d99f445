"""Figure 5: accuracy drops against the frequency of noise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from alternet.analysis.figures.style import GREY, draw_band, images_shown, network_colours, save_figure
from alternet.analysis.interventions import NoiseResult

LEGEND_WIDTH, HANDLE_WIDTH = 150, 8  # in characters: names of timm's with their pretraining are long


def draw_noise(results: Sequence[NoiseResult], path: str | os.PathLike[str]) -> None:
    """Draw figure 5, a curve per network, with 95 % intervals over test images (bands, or bars of a single frequency).

    Accuracies without noise are in the legend. Raises ValueError where there are no results, or results of different
    noise.
    """
    if not results:
        raise ValueError("results: got none, expected at least one NoiseResult")
    if len({result.noise for result in results}) > 1:
        noises = "; ".join(f"{result.network} {result.noise}" for result in results)
        raise ValueError(f"results: got {noises}, expected the same noise for all networks")
    save_figure(path, partial(_draw, results), height=4.6)


def _draw(results: Sequence[NoiseResult], figure: Figure) -> None:
    axes = figure.subplots()
    colours = network_colours(result.network for result in results)
    axes.axhline(0, color=GREY, linewidth=0.9)
    labels = [f"{result.network}  ({result.accuracy:.1%})" for result in results]
    for result, label in zip(results, labels, strict=True):
        draw_band(axes, result.frequencies.tolist(), result.drops, colours[result.network], label)
    axes.set(xlabel="frequency of the noise", ylabel="accuracy drop (percentage points)", xlim=(0, 1))
    axes.set_xticks(np.linspace(0, 1, 11), ["0", *(f"{tenth / 10:.1f}π" for tenth in range(1, 11))])
    columns = max(1, LEGEND_WIDTH // (HANDLE_WIDTH + max(map(len, labels))))
    note = "in brackets: accuracies without noise; bands, bars: 95 % intervals over images"
    legend = figure.legend(loc="outside lower center", ncols=columns, title=note, title_fontsize=9)
    legend.get_title().set_color(GREY)
    noise = results[0].noise
    magnitude = f"ε = {noise.magnitude:g}{' in every band' if noise.equalize_energy else ''}"
    figure.suptitle(f"Robustness to noise of one frequency band, {magnitude} ({images_shown(results)})")
