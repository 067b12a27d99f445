"""``alternet landscape``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_batches, add_networks, command
from alternet.analysis.commands.networks import measure_networks

if TYPE_CHECKING:
    from torch import nn

    from alternet.analysis.landscape import LandscapeResult
    from alternet.analysis.training.data import ImageData


def add(commands: Any) -> None:
    landscape = command(
        commands, "landscape", run, "figure 1: the loss on a plane through the weights of trained networks"
    )
    add_networks(landscape)
    add_batches(landscape)
    landscape.add_argument("--size", type=int, default=21, help="points along each direction, odd (21)")
    landscape.add_argument("--extent", type=float, default=1.0, help="how far to go each way (1)")
    landscape.add_argument(
        "--normalize",
        choices=("filter", "paper"),
        default="filter",
        help="directions by the norms of filters, or as the authors do over the first axis (filter)",
    )
    landscape.add_argument(
        "--l2",
        choices=("squared", "paper"),
        default="squared",
        help="half the squared norm, or as the authors do the sum of unsquared norms (squared)",
    )


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import batches_of, recipe_of
    from alternet.analysis.figures import draw_landscape
    from alternet.analysis.landscape import loss_landscape

    given = {name: getattr(chosen, name) for name in ("size", "extent", "normalize", "l2", "seed")}
    given["weight_decay"] = recipe_of(chosen).weight_decay

    def study(model: nn.Module, data: ImageData, **rest: Any) -> LandscapeResult:
        return loss_landscape(model, batches_of(chosen, data), **given, **rest)

    measure_networks(chosen, "landscape", study, draw_landscape, unit="point")
    print(chosen.out / "landscape.png")
