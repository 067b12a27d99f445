"""Training curves: loss and accuracy over epochs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alternet.analysis.figures.style import GREY, network_colours, save_figure

History = Sequence[Mapping[str, Any]]  # the rows of a training's history.json, one per epoch

MARKED = 5  # epochs up to which each has a mark: a line through one point would not be seen
TRAINING: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 1.3, "markerfacecolor": "white"}


def draw_training(histories: Mapping[str, History], path: str | os.PathLike[str]) -> None:
    """Draw loss and test accuracy over epochs: network name -> rows of its ``history.json``.

    Raises ValueError where there are no networks, or one without epochs.
    """
    if not histories:
        raise ValueError("histories: got none, expected at least one")
    for name, rows in histories.items():
        if not rows:
            raise ValueError(f"histories: {name} has no epochs")
    save_figure(path, partial(_draw, histories), height=4.0)


def _draw(histories: Mapping[str, History], figure: Figure) -> None:
    loss, accuracy = figure.subplots(1, 2)
    colours = network_colours(histories)
    for name, rows in histories.items():
        epochs = [row["epoch"] for row in rows]
        style = {"color": colours[name], "linewidth": 1.8, "marker": "o" if len(rows) <= MARKED else ""}
        loss.plot(epochs, [row["train_loss"] for row in rows], **style | TRAINING)
        loss.plot(epochs, [row["test_loss"] for row in rows], **style)
        last = rows[-1]["test_accuracy"]
        accuracy.plot(epochs, [row["test_accuracy"] for row in rows], label=f"{name}  ({last:.1%})", **style)
    loss.set(title="Loss", ylabel="negative log-likelihood (nats)")
    loss.legend(
        handles=[
            Line2D([], [], color=GREY, linewidth=1.8, label="test images"),
            Line2D([], [], color=GREY, **TRAINING, label="training, as augmented"),
        ]
    )
    accuracy.set(title="Accuracy on test images", ylabel="accuracy", ylim=(0, None))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracy.legend(title="after the last epoch", alignment="left")
    longest = max(rows[-1]["epoch"] for rows in histories.values())
    for axes in (loss, accuracy):
        axes.set(xlabel="epoch", xlim=(min(1, longest - 1) - 0.02 * longest, 1.02 * longest))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle("Training: loss and accuracy after every epoch")
