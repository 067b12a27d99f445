"""The claim on accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alternet.analysis.claims.claim import Claim, judged, listed, resamples
from alternet.analysis.features.per_image import PerImage
from alternet.analysis.studies import paper


def judge_accuracy(per_image: Mapping[str, PerImage], rng: np.random.Generator) -> list[Claim]:
    if "resnet" not in per_image or "alternet" not in per_image:
        return []
    right = {name: of.correct for name, of in per_image.items()}
    weights = resamples(len(right["resnet"]), rng)
    accuracy = {name: weights @ values / len(values) for name, values in right.items()}
    reported = paper.ACCURACY
    return [
        judged(
            "accuracy",
            "AlterNet beats the ResNet it is made from, also on small data.",
            "accuracy(AlterNet) - accuracy(ResNet)",
            "> 0",
            accuracy["alternet"] - accuracy["resnet"],
            listed(accuracy, "{:.1%}"),
            f"{reported['AlterNet']} % against {reported['ResNet']} % (CIFAR-100)",
        )
    ]
