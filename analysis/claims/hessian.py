"""Claims on Hessian eigenvalues: how convex and how flat the loss of each network is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alternet.analysis.claims.claim import Claim, judged, listed, resamples
from alternet.analysis.studies import paper
from alternet.analysis.studies.spectra import SpectraResult


def judge_study(spectra: Mapping[str, SpectraResult], *, seed: int = 0) -> tuple[Claim, ...]:
    """The claims of figures 2 and 8d that can be judged: those of ``judge``, and two on the ViT alone.

    Names of networks are those of ``judge``, and for a ViT trained on less data "vit_less", on mini-batches of its own,
    which are resampled apart from the others', and "vit_less_elsewhere", on those that all networks share. Claims on
    one that is missing are left out.
    """
    rng = np.random.default_rng(seed)
    claims = judge_spectra(spectra, rng)
    if "vit" in spectra:
        claims.insert(0, _judge_convexity(spectra["vit"], rng))
    for name, paired in (("vit_less", False), ("vit_less_elsewhere", True)):
        if "vit" in spectra and name in spectra:
            claims.append(_judge_data(spectra["vit"], spectra[name], rng, paired=paired))
    return tuple(claims)


def _judge_convexity(vit: SpectraResult, rng: np.random.Generator) -> Claim:
    share = _negative(vit, resamples(len(vit.values), rng))
    return judged(
        "Hessian",
        "The loss of a ViT is not convex: some of its largest Hessian eigenvalues are negative.",
        "NEP(ViT)",
        "> 0",
        share,
        f"{(vit.values < 0).sum()} of {vit.values.size} eigenvalues, "
        f"{int(((vit.values < 0) & (-vit.values <= vit.residuals)).sum())} of them of unsure sign",
        f"peaks at {' and '.join(f'{peak:+d}' for peak in paper.SPECTRA_PEAKS['ViT'])}",
    )


def _judge_data(vit: SpectraResult, less: SpectraResult, rng: np.random.Generator, *, paired: bool) -> Claim:
    """``paired``: on the same mini-batches, else on mini-batches of the data that each learned from."""
    weights = resamples(len(vit.values), rng)
    shares = [_negative(less, weights if paired else resamples(len(less.values), rng)), _negative(vit, weights)]
    return judged(
        "Hessian",
        "More data make the loss of a ViT more convex: fewer of its Hessian eigenvalues are negative "
        f"({'both on the same data' if paired else 'each on the data that it learned from'}).",
        f"NEP({less.network}) - NEP({vit.network})",
        "> 0",
        shares[0] - shares[1],
        f"NEP: {less.network} {shares[0][0]:.1%}, {vit.network} {shares[1][0]:.1%}",
        "more negative eigenvalues with 6 % of the data",
    )


def judge_spectra(spectra: Mapping[str, SpectraResult], rng: np.random.Generator) -> list[Claim]:
    if "resnet" not in spectra or "vit" not in spectra:
        return []
    names = [name for name in ("resnet", "vit", "alternet") if name in spectra]
    batches = {len(spectra[name].values) for name in names}
    if len(batches) > 1:
        raise ValueError(f"spectra: expected as many mini-batches for all networks, got {sorted(batches)}")
    weights = resamples(batches.pop(), rng)  # the same mini-batches for all networks: their differences are paired
    nep = {name: _negative(spectra[name], weights) for name in names}
    ape = {name: _ratio(np.maximum(spectra[name].values, 0), spectra[name].values > 0, weights) for name in names}
    shares = listed(nep, "{:.1%}")
    averages = listed(ape, "{:.3g}")
    peaks = ", ".join(f"{name} {' and '.join(f'{p:+d}' for p in at)}" for name, at in paper.SPECTRA_PEAKS.items())
    claims = [
        judged(
            "Hessian",
            "The loss of a ViT is less convex: more of its Hessian eigenvalues are negative than a ResNet's.",
            "NEP(ViT) - NEP(ResNet)",
            "> 0",
            nep["vit"] - nep["resnet"],
            f"NEP: {shares}",
            "many negative eigenvalues in ViT, almost none in ResNet",
        ),
        judged(
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
            judged(
                "Hessian",
                "AlterNet lies between the two in convexity.",
                "the smaller of NEP(ViT) - NEP(AlterNet) and NEP(AlterNet) - NEP(ResNet)",
                "> 0",
                np.minimum(nep["vit"] - nep["alternet"], nep["alternet"] - nep["resnet"]),
                f"NEP: {shares}",
                "AlterNet: few negative eigenvalues",
            ),
            judged(
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


def _negative(result: SpectraResult, weights: np.ndarray) -> np.ndarray:
    """NEP under every row of weights: [1 + resamples]."""
    return _ratio(result.values < 0, np.ones_like(result.values), weights)


def _ratio(numerators: np.ndarray, denominators: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Σ numerators / Σ denominators, both [batches, k], under every row of weights: [1 + resamples]."""
    with np.errstate(invalid="ignore"):  # 0 / 0: no positive eigenvalue to average, NaN
        return (weights @ numerators.sum(1)) / (weights @ denominators.sum(1))
