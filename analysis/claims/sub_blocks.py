"""Claims on what attention, convolutions and MLPs do to feature maps: to high frequencies, and to their variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alternet.analysis.claims.claim import Claim, judged, resamples
from alternet.analysis.features.per_image import PerImage
from alternet.analysis.studies import paper


def _count(changes: np.ndarray | Sequence[float], expected: str, what: str = "sub-blocks") -> str:
    signs = np.sign(changes)
    as_claimed = int((signs == (1 if expected == "> 0" else -1)).sum())
    return f"{as_claimed} of {len(signs)} {what} as claimed"


def _log(values: np.ndarray) -> np.ndarray:
    """NaN for 0: no ratio to judge."""
    return np.log(np.where(values > 0, values, np.nan))


class _Case(NamedTuple):
    """What the sub-blocks of one kind do to the residual stream of one network."""

    topic: str
    network: str
    kind: str
    expected: str
    statement: str
    reported: str = ""


def _reported(changes: Sequence[float], expected: str) -> str:
    return f"median {np.median(changes):+.2f}, {_count(changes, expected)} (ImageNet)"


KINDS = {"msa": "attention sub-blocks", "mlp": "MLP sub-blocks", "conv": "convolution blocks"}
LOW_PASS = "MSAs are low-pass filters: they lower high-frequency amplitudes"
HIGH_PASS = "Convolutions are high-pass filters: they raise high-frequency amplitudes"
AGGREGATE = "MSAs aggregate feature maps: they lower their variance"
CASES = (
    _Case("Fourier", "vit", "msa", "< 0", f"{LOW_PASS} (ViT).", _reported(paper.VIT_MSA_STEPS, "< 0")),
    _Case("Fourier", "alternet", "msa", "< 0", f"{LOW_PASS} (AlterNet)."),
    _Case("Fourier", "resnet", "conv", "> 0", f"{HIGH_PASS} (ResNet).", _reported(paper.RESNET_STEPS, "> 0")),
    _Case(
        "Fourier",
        "vit",
        "mlp",
        "> 0",
        "MLPs raise high-frequency amplitudes (ViT).",
        _reported(paper.VIT_MLP_STEPS, "> 0"),
    ),
    _Case("variance", "vit", "msa", "< 0", f"{AGGREGATE} (ViT).", "in every layer"),
    _Case("variance", "alternet", "msa", "< 0", f"{AGGREGATE} (AlterNet)."),
    _Case(
        "variance", "resnet", "conv", "> 0", "Convolutions diversify feature maps: they raise their variance (ResNet)."
    ),
    _Case("variance", "vit", "mlp", "> 0", "MLPs diversify feature maps: they raise their variance (ViT)."),
)


def judge_sub_blocks(per_image: Mapping[str, PerImage], rng: np.random.Generator) -> list[Claim]:
    claims = [_judge_case(case, per_image[case.network], rng) for case in CASES if case.network in per_image]
    if "resnet" in per_image:
        claims.append(_judge_peaks(per_image["resnet"], rng))
    return [claim for claim in claims if claim is not None]


def _judge_case(case: _Case, of: PerImage, rng: np.random.Generator) -> Claim | None:
    """None where the network has no such sub-blocks, or only some that change the size of the maps."""
    where = [
        number
        for number, tap in enumerate(of.taps[1:])
        if tap.kind == case.kind and of.map_sizes[number] == of.map_sizes[number + 1] != (1, 1)
    ]
    values, what = {
        "Fourier": (of.high_frequency, "the relative log amplitude at the highest frequency"),
        "variance": (_log(of.variance), "the log variance"),
    }[case.topic]
    changes = np.diff(values, axis=1)[:, where]  # [N, sub-blocks]
    if changes.size == 0 or np.isnan(changes).any():
        return None
    means = resamples(len(changes), rng) @ changes / len(changes)  # [1 + resamples, sub-blocks]
    drawn = rng.integers(len(where), size=means.shape)
    drawn[0] = np.arange(len(where))  # the first row is the data as they are
    return judged(
        case.topic,
        case.statement,
        f"median over {KINDS[case.kind]} of the mean change of {what}",
        case.expected,
        np.median(np.take_along_axis(means, drawn, axis=1), axis=1),
        _count(means[0], case.expected),
        case.reported,
    )


def _judge_peaks(of: PerImage, rng: np.random.Generator) -> Claim | None:
    variance = resamples(len(of.variance), rng) @ of.variance / len(of.variance)  # [1 + resamples, taps]
    stages = [
        [number for number, tap in enumerate(of.taps) if tap.stage == stage]
        for stage in sorted({tap.stage for tap in of.taps if tap.stage > 0})
    ]
    ratios = [_log(variance[:, s[-1]]) - _log(variance[:, s[:-1]].max(1)) for s in stages if len(s) > 1]
    ratios = [ratio for ratio in ratios if not np.isnan(ratio[0])]  # maps of one pixel have no variance
    if not ratios:
        return None
    return judged(
        "variance",
        "Variance peaks at the end of every stage (ResNet).",
        "the smallest over stages of log(variance after the last block / largest before it in the stage)",
        "> 0",
        np.min(ratios, axis=0),
        _count([ratio[0] for ratio in ratios], "> 0", "stages"),
        "in every stage",
    )
