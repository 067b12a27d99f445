"""``alternet features``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alternet.analysis.commands.arguments import add_measured, command


def add(commands: Any) -> None:
    features = command(commands, "features", run, "figures 4 and 6 of a timm ResNet, ViT or AlterNet")
    features.add_argument(
        "--checkpoint", type=Path, required=True, help="safetensors, or a torch file of nothing but tensors"
    )
    add_measured(features)
    features.add_argument(
        "--axis", choices=("exact", "paper"), default="exact", help="frequency axis: exact, or the authors' (exact)"
    )


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.commands.inputs import data_of, device_of, network_of, normalised
    from alternet.analysis.features import feature_statistics
    from alternet.analysis.features.fourier import Fourier
    from alternet.analysis.features.variance import Variance
    from alternet.analysis.figures import draw_fourier, draw_variance
    from alternet.analysis.progress import reporting
    from alternet.analysis.training.batches import eval_batches
    from alternet.analysis.training.networks import check_pictures

    data, device = data_of(chosen), device_of(chosen)
    network = network_of(chosen, chosen.checkpoint, len(data.classes))
    model = network.build(checkpoint=chosen.checkpoint).to(device)
    check_pictures(model, data)
    with reporting(f"features of {network.name}") as report:
        fourier, variance = feature_statistics(
            model,
            eval_batches(normalised(data, lambda: model, chosen), device=device),
            [Fourier(chosen.axis), Variance()],
            network=network.name,
            out=chosen.out / "sums.jsonl",
            progress=report,
        )
    for name, result, draw in (("fourier", fourier, draw_fourier), ("variance", variance, draw_variance)):
        result.save(chosen.out / f"{name}.json")
        result.save_csv(chosen.out / f"{name}.csv")
        draw([result], chosen.out / f"{name}.png")
        print(chosen.out / f"{name}.png")
