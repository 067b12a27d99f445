"""``alternet train``."""

from __future__ import annotations

import argparse
from typing import Any

from alternet.analysis.commands.arguments import add_data, add_model, add_recipe, command, epochs


def add(commands: Any) -> None:
    train = command(commands, "train", run, "train any timm model")
    train.add_argument("--model", required=True, help="timm's name of it")
    add_model(train)
    add_data(train)
    add_recipe(train)
    train.add_argument(
        "--keep-epochs",
        type=epochs,
        default=(),
        metavar="E,E,...",
        help="keep the weights after these too, as epoch-E.safetensors; 0 for those at the start",
    )


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import data_of, device_of, named_network, recipe_of
    from alternet.analysis.training.loop import FINAL, train

    data = data_of(chosen)
    train(
        named_network(chosen, len(data.classes)),
        data,
        recipe_of(chosen),
        chosen.out,
        seed=chosen.seed,
        device=device_of(chosen),
        keep_epochs=chosen.keep_epochs,
    )
    print(chosen.out / FINAL)
