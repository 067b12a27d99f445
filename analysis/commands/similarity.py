"""``alternet cka``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_measured, command

if TYPE_CHECKING:
    from torch import nn

    from alternet.analysis.training.batches import Batches
    from alternet.analysis.training.data import ImageData

RESULTS = ("first", "second", "between")


def add(commands: Any) -> None:
    cka = command(commands, "cka", run, "figure 7: similarity (CKA) of the layers of a timm ResNet, ViT or AlterNet")
    cka.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="safetensors, or a torch file of nothing but tensors; of a second network too for those between the two",
    )
    add_measured(cka)
    cka.add_argument("--batch-size", type=int, default=100, help="images of a mini-batch, at least 4 (100)")


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.features.similarity import layer_similarities
    from alternet.analysis.figures import draw_similarity
    from alternet.analysis.progress import reporting

    if len(chosen.checkpoint) > 2:
        raise ValueError(f"checkpoint: got {len(chosen.checkpoint)} files, expected one or two")
    networks, batches = _inputs(chosen)
    with reporting("similarity of layers") as report:
        results = layer_similarities(networks, batches, out=chosen.out / "cka.jsonl", progress=report)
    for name, result in zip(RESULTS, results, strict=False):
        result.save(chosen.out / f"cka-{name}.json")
        result.save_csv(chosen.out / f"cka-{name}.csv")
    draw_similarity(results, chosen.out / "cka.png")
    print(chosen.out / "cka.png")
    for result in results:
        within, between = result.stage_means
        if within == within:
            print(f"{result.network}: mean CKA at the same distance {within:.3f} in a stage, {between:.3f} between two")


def _inputs(chosen: argparse.Namespace) -> tuple[list[tuple[str, nn.Module]], Batches]:
    """Names and networks, and the mini-batches that all of them see."""
    from alternet.analysis.commands.inputs import data_of, device_of
    from alternet.analysis.features.hsic import LEAST
    from alternet.analysis.training.batches import eval_batches

    if chosen.batch_size < LEAST:
        raise ValueError(f"batch_size: got {chosen.batch_size}, expected at least {LEAST}")
    data, device = data_of(chosen), device_of(chosen)
    names, models, pictures = zip(*(_load(chosen, path, data, device) for path in chosen.checkpoint), strict=True)
    if len({(each.mean, each.std) for each in pictures}) > 1:
        raise ValueError("normalise: got model, in which the two networks differ, expected data")
    batches = eval_batches(pictures[0], chosen.batch_size, seed=chosen.seed, device=device)
    return list(zip(_distinct(names, chosen.checkpoint), models, strict=True)), batches


def _load(chosen: argparse.Namespace, path: Path, data: ImageData, device: str) -> tuple[str, nn.Module, ImageData]:
    """A network's name, the network, and the data as it is normalised for it."""
    from alternet.analysis.commands.inputs import network_of, normalised
    from alternet.analysis.training.networks import check_pictures

    network = network_of(chosen, path, len(data.classes))
    model = network.build(checkpoint=path).to(device)
    check_pictures(model, data)
    return network.name, model, normalised(data, lambda: model, chosen)


def _distinct(names: Sequence[str], paths: Sequence[Path]) -> Sequence[str]:
    """Two networks of one name are told apart by where their paths part."""
    if len(set(names)) == len(names):
        return names
    steps = zip(*(path.absolute().parts for path in paths), strict=False)
    parting = next((step for step in steps if len(set(step)) > 1), None)
    if parting is None:
        raise ValueError(f"checkpoint: got {paths[0]} twice, expected two networks")
    return [f"{name} ({part.removesuffix('.safetensors')})" for name, part in zip(names, parting, strict=True)]
