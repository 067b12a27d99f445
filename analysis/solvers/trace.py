"""Trace and Frobenius norm of a symmetric operator from few products: Hutch++ (Meyer, Musco, Musco & Woodruff 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.progress import Report
from alternet.analysis.solvers.operators import LinearOperator, check_operator
from alternet.analysis.solvers.vectors import Basis, VectorSpace, space_of


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


def moments(op: LinearOperator, *, products: int = 60, seed: int = 0, progress: Report | None = None) -> Moments:
    """Σ λ and Σ λ² of ``op`` from at most ``products`` products.

    A third of them finds the space Q of the largest eigenvalues and a third is exact there; the last third samples
    what is left, (I - QQᵀ) H (I - QQᵀ), with random signs. A network's Hessian has most of its trace in few
    directions: the error falls as one over the products instead of their square root. Inner products are in float64,
    draws depend on ``seed`` alone. ``progress`` is called with the products done and ``products``, first with 0, then
    after each.

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
    with plain_arithmetic(space.device):
        multiply = _Products(op, space, products, progress)
        basis = _range(multiply, space, min(share, space.n), generator)
        inside = [_inside(multiply, space, basis, i) for i in range(len(basis))]
        outside = [_outside(multiply, space, basis, generator) for _ in range(share if len(basis) < space.n else 0)]
    trace, trace_error = _total([t for t, _ in inside], [t for t, _ in outside])
    square, square_error = _total([s for _, s in inside], [s for _, s in outside])
    return Moments(trace, trace_error, square, square_error, multiply.done)


class _Products:
    """Products with an operator, finite, counted and reported."""

    def __init__(self, op: LinearOperator, space: VectorSpace, most: int, progress: Report | None) -> None:
        self.done = 0
        self._op, self._space, self._most, self._report = op, space, most, progress
        if progress is not None:
            progress(0, most)

    def __call__(self, vector: Tensor) -> tuple[Tensor, float]:
        """H v and its squared norm."""
        image = (self._op @ vector).detach()
        self.done += 1
        if self._report is not None:
            self._report(self.done, self._most)
        square = float(self._space.dot(image, image))
        if not math.isfinite(square):
            raise FloatingPointError(f"product {self.done} of the operator has NaN or infinite entries")
        return image, square


def _range(multiply: _Products, space: VectorSpace, count: int, generator: torch.Generator) -> Basis:
    """An orthonormal basis of H G for normal G: [n, count]; shorter where H has less rank."""
    basis = space.basis()
    for _ in range(count):
        image, before = multiply(space.normal(generator))
        for _ in range(2):  # once more for what rounding left
            basis.orthogonalize(image)
        after = space.norm(image)
        if float(after) > 100 * torch.finfo(space.dtype).eps * math.sqrt(before):
            basis.append(image.div_(after.to(image.dtype)))
    return basis


def _inside(multiply: _Products, space: VectorSpace, basis: Basis, i: int) -> tuple[float, float]:
    """qᵀHq and what q adds to the squared norm: ‖Hq‖² and once more its part outside, which H's symmetry mirrors."""
    image, whole = multiply(basis[i])
    quotient = float(space.dot(basis[i], image))
    basis.orthogonalize(image)
    return quotient, whole + float(space.dot(image, image))


def _outside(multiply: _Products, space: VectorSpace, basis: Basis, generator: torch.Generator) -> tuple[float, float]:
    """gᵀPHPg and ‖PHPg‖² for random signs g, P = I - QQᵀ."""
    probe = space.signs(generator)
    basis.orthogonalize(probe)
    image, _ = multiply(probe)
    basis.orthogonalize(image)
    return float(space.dot(probe, image)), float(space.dot(image, image))


def _total(exact: list[float], samples: list[float]) -> tuple[float, float]:
    drawn = torch.tensor(samples, dtype=torch.float64)
    error = float(drawn.std()) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan if samples else 0.0
    return math.fsum(exact) + (float(drawn.mean()) if samples else 0.0), error
