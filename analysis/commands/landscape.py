"""``alternet landscape``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_batches, add_networks, command

if TYPE_CHECKING:
    from torch import nn

    from alternet.analysis.landscape import LandscapeResult


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
    from alternet.analysis.commands.inputs import batches_of, data_of, device_of, labelled_models, normalised, recipe_of
    from alternet.analysis.figures import draw_landscape
    from alternet.analysis.files import file_stem
    from alternet.analysis.landscape import loss_landscape
    from alternet.analysis.progress import reporting

    data, device = data_of(chosen), device_of(chosen)
    given = {name: getattr(chosen, name) for name in ("size", "extent", "normalize", "l2", "seed")}

    def measured(name: str, model: nn.Module) -> LandscapeResult:
        file = f"{file_stem(name)}-landscape"
        with reporting(f"landscape: {name}", unit="point") as report:
            result = loss_landscape(
                model,
                batches_of(chosen, normalised(data, lambda: model, chosen)),
                network=name,
                weight_decay=recipe_of(chosen).weight_decay,
                out=chosen.out / f"{file}.jsonl",
                progress=report,
                **given,
            )
        result.save(chosen.out / f"{file}.json")
        result.save_csv(chosen.out / f"{file}.csv")
        return result

    results = [measured(name, model) for name, model in labelled_models(chosen, data, device).items()]
    draw_landscape(results, chosen.out / "landscape.png")
    print(chosen.out / "landscape.png")
