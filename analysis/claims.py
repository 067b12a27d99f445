"""The paper's claims, judged on the numbers at hand.

Every claim is one statistic and a side of a threshold. It is *supported* where the statistic's whole 95 % bootstrap
interval lies on that side, *not supported* where none of it does, and *undecided* otherwise.

Resampled are mini-batches (the same for both networks) for eigenvalues, test images for accuracies, and test images
and sub-blocks together for what a kind of sub-block does. Intervals therefore say how the numbers of *these* networks
would vary with other data of the same kind; they know nothing of networks from another seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from alternet.analysis import paper
from alternet.analysis.files import save_csv, save_json
from alternet.analysis.networks import LABELS
from alternet.analysis.per_image import PerImage
from alternet.analysis.spectra import LEVEL, RESAMPLES, SpectraResult

KIND = "alternet claims"
COLUMNS = "topic statement statistic expected value low high verdict detail paper"
Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with what the numbers say.

    ``statistic`` names what ``value`` and its interval ``low`` … ``high`` are; ``expected`` is the side that the claim
    is on, as in ``"< 0"``. ``detail`` breaks the value down; ``paper`` is what the authors report.
    """

    topic: str
    statement: str
    statistic: str
    expected: str
    value: float
    low: float
    high: float
    verdict: Verdict
    detail: str
    paper: str


def judge(
    spectra: Mapping[str, SpectraResult], per_image: Mapping[str, PerImage], *, seed: int = 0
) -> tuple[Claim, ...]:
    """The claims that can be judged, in the paper's order.

    Both mappings have networks by the names "resnet", "vit" and "alternet". Claims on one that is missing are left out,
    as are those on kinds of sub-blocks that it does not have.
    """
    rng = np.random.default_rng(seed)
    return (
        *_judge_spectra(spectra, rng),
        *_judge_features(per_image, rng),
        *_judge_accuracy(per_image, rng),
    )


def save_claims(claims: Sequence[Claim], folder: str | os.PathLike[str]) -> None:
    """Write ``claims.json`` and ``claims.csv``; values that do not exist are null, and empty."""
    rows = [{name: _or_none(value) for name, value in asdict(claim).items()} for claim in claims]
    save_json(os.path.join(folder, "claims.json"), KIND, {"level": LEVEL, "claims": rows})
    save_csv(os.path.join(folder, "claims.csv"), COLUMNS, ([*row.values()] for row in rows))


def verdict(low: float, high: float, expected: str) -> Verdict:
    """Where the interval lies, seen from ``expected``: "supported" wholly inside, "not supported" wholly outside."""
    side, bound = expected.split()
    threshold = float(bound)
    if np.isnan([low, high]).any():
        return "undecided"
    inside = (low > threshold, high > threshold) if side == ">" else (high < threshold, low < threshold)
    return "supported" if inside[0] else "undecided" if inside[1] else "not supported"


def _resamples(count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` items is drawn: [1 + resamples, count]; the first row is the data as they are.

    A single item does not say how it varies: NaN in place of the resamples, so that nothing is decided by it.
    """
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn if count > 1 else np.full(drawn.shape, np.nan)])


def _claim(
    topic: str, statement: str, statistic: str, expected: str, values: np.ndarray, detail: str, reported: str
) -> Claim:
    """``values``: the statistic of the data as they are, then of the resamples; NaN makes the interval NaN."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    numbers = float(values[0]), float(low), float(high)
    return Claim(topic, statement, statistic, expected, *numbers, verdict(low, high, expected), detail, reported)


def _count(changes: np.ndarray | Sequence[float], expected: str, what: str = "sub-blocks") -> str:
    signs = np.sign(changes)
    as_claimed = int((signs == (1 if expected == "> 0" else -1)).sum())
    return f"{as_claimed} of {len(signs)} {what} as claimed"


def _listed(values: Mapping[str, np.ndarray], form: str) -> str:
    return ", ".join(f"{LABELS.get(name, name)} {form.format(value[0])}" for name, value in values.items())


def _log(values: np.ndarray) -> np.ndarray:
    """NaN for 0: no ratio to judge."""
    return np.log(np.where(values > 0, values, np.nan))


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


# Hessian eigenvalues


def _judge_spectra(spectra: Mapping[str, SpectraResult], rng: np.random.Generator) -> list[Claim]:
    if "resnet" not in spectra or "vit" not in spectra:
        return []
    names = [name for name in ("resnet", "vit", "alternet") if name in spectra]
    batches = {len(spectra[name].values) for name in names}
    if len(batches) > 1:
        raise ValueError(f"spectra: expected as many mini-batches for all networks, got {sorted(batches)}")
    weights = _resamples(batches.pop(), rng)  # the same mini-batches for all networks: their differences are paired
    nep = {name: _ratio(spectra[name].values < 0, np.ones_like(spectra[name].values), weights) for name in names}
    ape = {name: _ratio(np.maximum(spectra[name].values, 0), spectra[name].values > 0, weights) for name in names}
    shares = _listed(nep, "{:.1%}")
    averages = _listed(ape, "{:.3g}")
    peaks = ", ".join(f"{name} {' and '.join(f'{p:+d}' for p in at)}" for name, at in paper.SPECTRA_PEAKS.items())
    claims = [
        _claim(
            "Hessian",
            "The loss of a ViT is less convex: more of its Hessian eigenvalues are negative than a ResNet's.",
            "NEP(ViT) - NEP(ResNet)",
            "> 0",
            nep["vit"] - nep["resnet"],
            f"NEP: {shares}",
            "many negative eigenvalues in ViT, almost none in ResNet",
        ),
        _claim(
            "Hessian",
            "The loss of a ViT is flatter: its positive Hessian eigenvalues are smaller than a ResNet's.",
            "APE(ViT) / APE(ResNet)",
            "< 1",
            ape["vit"] / ape["resnet"],
            f"APE: {averages}",
            f"peaks at {peaks}",
        ),
    ]
    if "alternet" in spectra:
        claims += [
            _claim(
                "Hessian",
                "AlterNet lies between the two in convexity.",
                "the smaller of NEP(ViT) - NEP(AlterNet) and NEP(AlterNet) - NEP(ResNet)",
                "> 0",
                np.minimum(nep["vit"] - nep["alternet"], nep["alternet"] - nep["resnet"]),
                f"NEP: {shares}",
                "AlterNet: few negative eigenvalues",
            ),
            _claim(
                "Hessian",
                "AlterNet lies between the two in flatness.",
                "the smaller of APE(ResNet) / APE(AlterNet) and APE(AlterNet) / APE(ViT)",
                "> 1",
                np.minimum(ape["resnet"] / ape["alternet"], ape["alternet"] / ape["vit"]),
                f"APE: {averages}",
                f"peaks at {peaks}; AlterNet has a lighter tail",
            ),
        ]
    return claims


def _ratio(numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ numerators / Σ denominators, both [batches, k], under every row of weights: [1 + resamples]."""
    with np.errstate(invalid="ignore"):  # 0 / 0: no positive eigenvalue to average, NaN
        return (weights @ numerators.sum(1)) / (weights @ denominators.sum(1))


# Sub-blocks: frequencies and variance


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


def _judge_features(per_image: Mapping[str, PerImage], rng: np.random.Generator) -> list[Claim]:
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
    means = _resamples(len(changes), rng) @ changes / len(changes)  # [1 + resamples, sub-blocks]
    drawn = rng.integers(len(where), size=means.shape)
    drawn[0] = np.arange(len(where))  # the first row is the data as they are
    return _claim(
        case.topic,
        case.statement,
        f"median over {KINDS[case.kind]} of the mean change of {what}",
        case.expected,
        np.median(np.take_along_axis(means, drawn, axis=1), axis=1),
        _count(means[0], case.expected),
        case.reported,
    )


def _judge_peaks(of: PerImage, rng: np.random.Generator) -> Claim | None:
    variance = _resamples(len(of.variance), rng) @ of.variance / len(of.variance)  # [1 + resamples, taps]
    stages = [
        [number for number, tap in enumerate(of.taps) if tap.stage == stage]
        for stage in sorted({tap.stage for tap in of.taps if tap.stage > 0})
    ]
    ratios = [_log(variance[:, s[-1]]) - _log(variance[:, s[:-1]].max(1)) for s in stages if len(s) > 1]
    ratios = [ratio for ratio in ratios if not np.isnan(ratio[0])]  # maps of one pixel have no variance
    if not ratios:
        return None
    return _claim(
        "variance",
        "Variance peaks at the end of every stage (ResNet).",
        "the smallest over stages of log(variance after the last block / largest before it in the stage)",
        "> 0",
        np.min(ratios, axis=0),
        _count([ratio[0] for ratio in ratios], "> 0", "stages"),
        "in every stage",
    )


def _judge_accuracy(per_image: Mapping[str, PerImage], rng: np.random.Generator) -> list[Claim]:
    if "resnet" not in per_image or "alternet" not in per_image:
        return []
    right = {name: of.correct for name, of in per_image.items()}
    weights = _resamples(len(right["resnet"]), rng)
    accuracy = {name: weights @ values / len(values) for name, values in right.items()}
    reported = paper.ACCURACY
    return [
        _claim(
            "accuracy",
            "AlterNet beats the ResNet it is made from, also on small data.",
            "accuracy(AlterNet) - accuracy(ResNet)",
            "> 0",
            accuracy["alternet"] - accuracy["resnet"],
            _listed(accuracy, "{:.1%}"),
            f"{reported['AlterNet']} % against {reported['ResNet']} % (CIFAR-100)",
        )
    ]
