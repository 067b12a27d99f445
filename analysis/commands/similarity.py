"""``alternet cka``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_measured, add_networks, command

if TYPE_CHECKING:
    from torch import nn

    from alternet.analysis.features.similarity import SimilarityResult
    from alternet.analysis.training.batches import Batches
    from alternet.analysis.training.data import ImageData


def add(commands: Any) -> None:
    cka = command(commands, "cka", run, "figure 7: similarity (CKA) of the layers of timm ResNets, ViTs or AlterNets")
    add_networks(cka)
    add_measured(cka)
    cka.add_argument("--batch-size", type=int, default=100, help="images of a mini-batch, at least 4 (100)")


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.features.similarity import layer_similarities
    from alternet.analysis.figures import draw_similarity
    from alternet.analysis.progress import reporting

    models, batches = _inputs(chosen)
    with reporting("similarity of layers") as report:
        results = layer_similarities([*models.items()], batches, out=chosen.out / "cka.jsonl", progress=report)
    for result in results:
        result.save(chosen.out / f"{_file(result)}.json")
        result.save_csv(chosen.out / f"{_file(result)}.csv")
    draw_similarity(results, chosen.out / "cka.png")
    for result in results:
        within, between = result.stage_means
        if within == within:
            print(f"{result.network}: mean CKA at the same distance {within:.3f} in a stage, {between:.3f} between two")
    print(chosen.out / "cka.png")


def _inputs(chosen: argparse.Namespace) -> tuple[dict[str, nn.Module], Batches]:
    """Networks by name, and the mini-batches that all of them see."""
    from alternet.analysis.commands.inputs import data_of, device_of, labelled_models, normalised
    from alternet.analysis.features.hsic import LEAST
    from alternet.analysis.training.batches import eval_batches
    from alternet.analysis.training.networks import check_pictures

    if chosen.batch_size < LEAST:
        raise ValueError(f"batch_size: got {chosen.batch_size}, expected at least {LEAST}")
    data, device = data_of(chosen), device_of(chosen)
    models = labelled_models(chosen, data, device, check_pictures)

    def pictures(model: nn.Module) -> ImageData:
        return normalised(data, lambda: model, chosen)

    first, *others = map(pictures, models.values())
    if any((each.mean, each.std) != (first.mean, first.std) for each in others):
        raise ValueError("normalise: got model, in which the networks differ, expected data")
    return models, eval_batches(first, chosen.batch_size, seed=chosen.seed, device=device)


def _file(result: SimilarityResult) -> str:
    from alternet.analysis.files import file_stem

    return "-".join(file_stem(name) for name in (result.network, result.other, "cka") if name)
