"""``alternet poster``."""

from __future__ import annotations

import argparse
from typing import Any

from alternet.analysis.commands.arguments import add_data, add_fraction, add_recipe, command, named_path


def add(commands: Any) -> None:
    poster = command(commands, "poster", run, "train the three networks, make the figures and the page")
    add_data(poster)
    add_recipe(poster)
    add_fraction(poster)
    poster.add_argument(
        "--checkpoint",
        type=named_path,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="weights of resnet, vit or alternet, which then is not trained; several times for several networks",
    )


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import device_of, recipe_of
    from alternet.analysis.studies.poster import Poster, make_poster

    poster = Poster(
        data=chosen.data,
        recipe=recipe_of(chosen),
        image_size=chosen.image_size,
        flip=chosen.flip,
        seed=chosen.seed,
        fraction=chosen.fraction,
        checkpoints=dict(chosen.checkpoint),
    )
    print(make_poster(poster, chosen.out, device=device_of(chosen), command=chosen.command_line))
