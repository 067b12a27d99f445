"""Trace and Frobenius norm of a symmetric operator from few products: Hutch++ (Meyer, Musco, Musco & Woodruff 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alternet.analysis.operators import LinearOperator, check_operator
from alternet.analysis.vectors import Basis, VectorSpace, space_of


@dataclass(frozen=True)
class Moments:
    """Estimates with the standard error of their random part; NaN where there was one sample of it, 0 where none.

    trace: Σ λ.
    squared_frobenius: Σ λ², the squared Frobenius norm.
    products: how many times the operator was applied.
    """

    trace: float
    trace_error: float
    squared_frobenius: float
    squared_frobenius_error: float
    products: int

    @property
    def frobenius(self) -> float:
        """The Frobenius norm."""
        return math.sqrt(max(self.squared_frobenius, 0.0))


def moments(op: LinearOperator, *, products: int = 60, seed: int = 0) -> Moments:
    """Σ λ and Σ λ² of ``op`` from at most ``products`` products.

    A third of them finds the space Q of the largest eigenvalues and a third is exact there; the last third samples
    what is left, (I - QQᵀ) H (I - QQᵀ), with random signs. A network's Hessian has most of its trace in few
    directions: the error falls as one over the products instead of their square root. Inner products are in float64,
    draws depend on ``seed`` alone.

    Raises:
        TypeError: ``op`` is not float32 or float64.
        ValueError: ``op`` is not square, or fewer than three products.
        FloatingPointError: a product has a NaN or an infinity.
    """
    check_operator(op)
    if products < 3:
        raise ValueError(f"products: expected at least 3, got {products}")
    generator = torch.Generator().manual_seed(seed)
    share = products // 3
    space = space_of(op)
    basis = _range(op, space, min(share, space.n), generator)
    inside = [_inside(op, space, basis, i) for i in range(len(basis))]
    outside = [_outside(op, space, basis, generator) for _ in range(share if len(basis) < space.n else 0)]
    trace, trace_error = _total([t for t, _ in inside], [t for t, _ in outside])
    square, square_error = _total([s for _, s in inside], [s for _, s in outside])
    done = min(share, space.n) + len(inside) + len(outside)
    return Moments(trace, trace_error, square, square_error, done)


def _range(op: LinearOperator, space: VectorSpace, count: int, generator: torch.Generator) -> Basis:
    """An orthonormal basis of H G for normal G: [n, count]; shorter where H has less rank."""
    basis = space.basis()
    for _ in range(count):
        image = op @ space.normal(generator)
        before = _finite(space.norm(image))
        for _ in range(2):  # once more for what rounding left
            basis.orthogonalize(image)
        after = space.norm(image)
        if float(after) > 100 * torch.finfo(op.dtype).eps * before:
            basis.append(image.div_(after.to(image.dtype)))
    return basis


def _inside(op: LinearOperator, space: VectorSpace, basis: Basis, i: int) -> tuple[float, float]:
    """qᵀHq and what q adds to the squared norm: ‖Hq‖² and once more its part outside, which H's symmetry mirrors."""
    image = op @ basis[i]
    quotient, whole = float(space.dot(basis[i], image)), _finite(space.dot(image, image))
    basis.orthogonalize(image)
    return quotient, whole + float(space.dot(image, image))


def _outside(op: LinearOperator, space: VectorSpace, basis: Basis, generator: torch.Generator) -> tuple[float, float]:
    """gᵀPHPg and ‖PHPg‖² for random signs g, P = I - QQᵀ."""
    probe = space.signs(generator)
    basis.orthogonalize(probe)
    image = op @ probe
    basis.orthogonalize(image)
    return float(space.dot(probe, image)), _finite(space.dot(image, image))


def _total(exact: list[float], samples: list[float]) -> tuple[float, float]:
    drawn = torch.tensor(samples, dtype=torch.float64)
    error = float(drawn.std()) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan if samples else 0.0
    return math.fsum(exact) + (float(drawn.mean()) if samples else 0.0), error


def _finite(size: Tensor) -> float:
    """The norm of a product, or its square, as a number."""
    value = float(size)
    if not math.isfinite(value):
        raise FloatingPointError("a product of the operator has NaN or infinite entries")
    return value
