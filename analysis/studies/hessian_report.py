"""``alternet hessian``: largest eigenvalues, spectral density or trace of one operator, as JSON and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from alternet.analysis.figures import draw_density, draw_eigenvalues, draw_moments
from alternet.analysis.files import json_number, save_json
from alternet.analysis.progress import reporting, reporting_stages
from alternet.analysis.solvers.density import SpectralDensity, spectral_density
from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.solvers.operators import LinearOperator
from alternet.analysis.solvers.trace import moments

KIND = "alternet hessian"


def report_top(
    op: Any, out: Path, *, k: int, which: str, tol: float, block_size: int, seed: int, draft: str | None = None
) -> dict[str, Any]:
    """Writes top.json and top.png: ``k`` eigenvalues from the end(s) ``which``, with rigorous bounds.

    ``draft`` names the 16-bit dtype whose products search; the numbers are those of ``op``'s own products.
    """
    cheaper = None if draft is None else op.under_autocast(getattr(torch, draft))
    with reporting("products", unit="product") as report:
        found = top_eigenvalues(
            op, k, which=which, tol=tol, block_size=block_size, seed=seed, draft=cheaper, progress=report
        )
    result = {
        "size": op.shape[0],
        "which": which,
        "values": found.values.tolist(),
        "bounds": found.bounds.tolist(),
        "gap_bounds": found.gap_bounds.tolist(),
        "residuals": found.residuals.tolist(),
        "converged": found.converged.tolist(),
        "products": found.products,
        "precision": str(op.dtype).removeprefix("torch."),
        "draft": draft,
        "draft_products": found.draft_products,
        "seed": seed,
        "tol": tol,
    }
    save_json(out / "top.json", KIND, result)
    draw_eigenvalues(found.values.numpy(), found.bounds.numpy(), out / "top.png")
    return result


def report_density(
    operators: Mapping[str, Callable[[], LinearOperator]], out: Path, *, probes: int, steps: int, seed: int
) -> list[dict[str, Any]]:
    """Writes density.json (quadrature nodes and weights of every probe) and density.png, a panel per operator.

    ``operators`` go by what they are of, and are made one at a time; the result is without nodes and weights.
    """
    densities: dict[str, SpectralDensity] = {}
    with reporting_stages("products", len(operators) * probes * steps, unit="product") as stage:
        for name, make in operators.items():
            densities[name] = spectral_density(make(), probes=probes, steps=steps, seed=seed, progress=stage(name))
    summaries = [_density_summary(name, density, seed) for name, density in densities.items()]
    quadratures = [{"nodes": found.nodes.tolist(), "weights": found.weights.tolist()} for found in densities.values()]
    rows = [summary | quadrature for summary, quadrature in zip(summaries, quadratures, strict=True)]
    save_json(out / "density.json", KIND, {"densities": rows})
    draw_density(densities, out / "density.png")
    return summaries


def _density_summary(name: str, found: SpectralDensity, seed: int) -> dict[str, Any]:
    mean, error = found.mean(lambda nodes: nodes)
    below, below_error = found.below(0.0)
    return {
        "of": name,
        "size": found.size,
        "trace": found.size * mean,
        "trace_error": json_number(found.size * error),
        "proportion_negative": below,
        "proportion_negative_error": json_number(below_error),
        "products": found.products,
        "seed": seed,
    }


def report_trace(op: LinearOperator, out: Path, *, name: str, products: int, seed: int) -> dict[str, Any]:
    """Writes trace.json and trace.png: Σ λ and the Frobenius norm with standard errors, of what ``name`` says."""
    with reporting("products", unit="product") as report:
        found = moments(op, products=products, seed=seed, progress=report)
    result = {
        "size": op.shape[0],
        "trace": found.trace,
        "trace_error": json_number(found.trace_error),
        "squared_frobenius": found.squared_frobenius,
        "squared_frobenius_error": json_number(found.squared_frobenius_error),
        "frobenius": found.frobenius,
        "products": found.products,
        "seed": seed,
    }
    save_json(out / "trace.json", KIND, result)
    draw_moments({name: found}, out / "trace.png")
    return result
