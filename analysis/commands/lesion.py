"""``alternet lesion``."""

from __future__ import annotations

import argparse
from typing import Any

from alternet.analysis.commands.accuracies import accuracies, measure


def add(commands: Any) -> None:
    accuracies(commands, "lesion", run, "figure 7: what each unit of a timm ResNet, ViT or AlterNet is worth")


def run(chosen: argparse.Namespace) -> None:
    from alternet.analysis.figures import draw_lesion
    from alternet.analysis.interventions import lesion_study

    measure(chosen, "lesion", lambda model, batches, std, **rest: lesion_study(model, batches, **rest), draw_lesion)
