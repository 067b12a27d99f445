"""``alternet noise``."""

from __future__ import annotations

import argparse
from typing import Any

from alternet.analysis.commands.accuracies import accuracies, measure


def add(commands: Any) -> None:
    noise = accuracies(commands, "noise", run, "figure 5: the accuracy that noise of one frequency band costs")
    noise.add_argument(
        "--frequencies",
        type=float,
        nargs="+",
        metavar="F",
        help="centres of the bands, in units of π per pixel (0.1 to 0.9)",
    )
    noise.add_argument("--magnitude", type=float, help="ε, in units of pixel values, which are 0 to 1 (0.2)")
    noise.add_argument(
        "--equalize-energy", action="store_true", help="noise of as much energy in every band (more where it is wider)"
    )


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.figures import draw_noise
    from alternet.analysis.interventions import noise_robustness

    names = ("frequencies", "magnitude", "equalize_energy", "seed")
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    measure(
        chosen,
        "noise",
        lambda model, batches, std, **rest: noise_robustness(model, batches, std=std, **given, **rest),
        draw_noise,
    )
