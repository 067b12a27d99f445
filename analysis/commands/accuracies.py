"""What ``alternet noise`` and ``alternet lesion`` share: networks in, their accuracies under conditions out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_measured, add_networks, command

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from alternet.analysis.interventions import Outcomes

UNCHANGED = "unchanged"


def accuracies(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """A command on one or several trained networks."""
    parser = command(commands, name, run, text)
    add_networks(parser)
    add_measured(parser)
    return parser


def measure(
    chosen: argparse.Namespace, what: str, study: Callable[..., Any], draw: Callable[[Sequence[Any], Path], None]
) -> None:
    """``study(model, batches, std, **arguments)`` of every network on the test set; its files, figure and table.

    Every network gets ``NAME-what.jsonl`` (where a stopped run goes on), ``.json`` and ``.csv``, all get ``what.png``.
    """
    from alternet.analysis.commands.inputs import data_of, device_of, labelled_models, normalised
    from alternet.analysis.files import file_stem
    from alternet.analysis.progress import reporting
    from alternet.analysis.training.batches import eval_batches

    data, device = data_of(chosen), device_of(chosen)

    def measured(name: str, model: nn.Module) -> Any:
        images, file = normalised(data, lambda: model, chosen), f"{file_stem(name)}-{what}"
        batches, out = eval_batches(images, device=device), chosen.out / f"{file}.jsonl"
        with reporting(f"{what}: {name}") as report:
            result = study(model, batches, images.std, network=name, out=out, progress=report)
        result.save(chosen.out / f"{file}.json")
        result.save_csv(chosen.out / f"{file}.csv")
        return result

    results = [measured(name, model) for name, model in labelled_models(chosen, data, device).items()]
    draw(results, chosen.out / f"{what}.png")
    _print(results)
    print(chosen.out / f"{what}.png")


def _print(results: Sequence[Outcomes]) -> None:
    """A table: accuracies in per cent, drops in percentage points with their intervals."""
    width = 2 + max(len(name) for result in results for name in (result.network, UNCHANGED, *result.conditions))
    for result in results:
        print(f"{result.network:{width}}  accuracy    drop  95 % interval ({result.images:,} images)")
        print(f"  {UNCHANGED:{width - 2}}  {result.accuracy:8.1%}")
        for condition, (accuracy, *estimate) in zip(result.conditions, result.rows(), strict=True):
            value, low, high = (f"{number:.1f}" for number in estimate)
            print(f"  {condition:{width - 2}}  {accuracy:8.1%}  {value:>6}  [{low}, {high}]")
