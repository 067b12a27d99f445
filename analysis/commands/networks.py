"""What commands on several trained networks share: each is measured, and all are in one figure."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def measure_networks(
    chosen: argparse.Namespace,
    what: str,
    study: Callable[..., Any],
    draw: Callable[[Sequence[Any], Path], None],
    *,
    unit: str = "batch",
) -> list[Any]:
    """The results of ``study(model, data, network=, out=, progress=)`` of every network of ``--checkpoint``.

    ``data`` is normalised for the network. Every network gets ``NAME-what.jsonl`` (where a stopped run goes on),
    ``.json`` and ``.csv``, all get ``what.png``. ``unit`` is what ``progress`` counts.
    """
    from alternet.analysis.commands.inputs import data_of, device_of, labelled_models, normalised
    from alternet.analysis.files import file_stem
    from alternet.analysis.progress import reporting

    data = data_of(chosen)

    def measured(name: str, model: nn.Module) -> Any:
        pictures, file = normalised(data, lambda: model, chosen), f"{file_stem(name)}-{what}"
        with reporting(f"{what}: {name}", unit=unit) as report:
            result = study(model, pictures, network=name, out=chosen.out / f"{file}.jsonl", progress=report)
        result.save(chosen.out / f"{file}.json")
        result.save_csv(chosen.out / f"{file}.csv")
        return result

    results = [measured(name, model) for name, model in labelled_models(chosen, data, device_of(chosen)).items()]
    draw(results, chosen.out / f"{what}.png")
    return results
