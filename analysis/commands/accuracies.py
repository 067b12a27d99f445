"""What ``alternet noise`` and ``alternet lesion`` share: networks in, their accuracies under conditions out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alternet.analysis.commands.arguments import add_measured, add_networks, command
from alternet.analysis.commands.networks import measure_networks

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from alternet.analysis.interventions import Outcomes
    from alternet.analysis.training.data import ImageData

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
    """``study(model, batches, std, **arguments)`` of every network on the test set; files, figure and table."""
    from alternet.analysis.commands.inputs import device_of
    from alternet.analysis.training.batches import eval_batches

    device = device_of(chosen)

    def on_test_set(model: nn.Module, data: ImageData, **rest: Any) -> Any:
        return study(model, eval_batches(data, device=device), data.std, **rest)

    _print(measure_networks(chosen, what, on_test_set, draw))
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
