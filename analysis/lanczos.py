"""The eigenvalues of largest magnitude of a symmetric operator, by Lanczos with full reorthogonalisation.

The solver knows an operator by its ``shape``, ``dtype``, ``device`` and ``op @ v``: a ``HessianOperator``, a dense
tensor, or anything with these.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from alternet.analysis.vectors import space_of


class LinearOperator(Protocol):
    """A symmetric matrix that is known by its products, new tensors that the caller may change."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __matmul__(self, vector: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TopEigenvalues:
    """Ritz values in order of falling magnitude, and how good they are. Tensors are on the CPU but for ``vectors``.

    values: [k] float64.
    residuals: [k] float64, bounds of ‖Hu − θu‖ for the unit Ritz vectors u, so that an eigenvalue lies within this
        distance of θ. They come without further products from the Lanczos relation: β|s|, plus what the basis
        measured of H being unsymmetric in floating point. They do not contain the rounding of H @ v itself.
    converged: [k] bool, ``residuals <= tol * abs(values[0])`` and no sign of a larger eigenvalue yet to be found.
    products: how many times H was applied.
    vectors: [n, k] in the operator's dtype on its device where they were asked for, else None.
    """

    values: Tensor
    residuals: Tensor
    converged: Tensor
    products: int
    vectors: Tensor | None = None


def top_eigenvalues(
    op: LinearOperator,
    k: int = 5,
    *,
    tol: float = 1e-3,
    max_steps: int | None = None,
    seed: int = 0,
    vectors: bool = False,
) -> TopEigenvalues:
    """The ``k`` eigenvalues of largest magnitude of the symmetric ``op``, by Lanczos (Lanczos 1950).

    Stops at the first step at which the residual bound of every one of the ``k`` Ritz values of largest magnitude is
    at most ``tol`` times the largest magnitude. The eigenvalues' own error is of the order of the residual squared
    over the gap, hence far smaller. The start vector is drawn on the CPU from ``seed``, so that it is the same on any
    device. One product a step; the basis keeps one vector a step.

    A Krylov space holds one vector of every eigenspace. Where it ends (β vanishes: few distinct eigenvalues), the
    search goes on from a new random vector orthogonal to all it has found, until that finds nothing larger than the
    ``k`` values at hand; so repeated eigenvalues of such operators are counted with their multiplicity. In a spectrum
    of many distinct eigenvalues, those closer together than ``tol`` times the largest may be seen as one: a smaller
    ``tol`` tells them apart, exact copies it does not.

    Args:
        op: symmetric, float32 or float64, [n, n].
        k: 1 to n.
        max_steps: give up after this many products, with ``converged`` False for what is not found; by default
            max(200, 20 k), or n where that is less.
        vectors: return Ritz vectors too.

    Raises:
        TypeError: ``op`` is not float32 or float64.
        ValueError: an argument out of range.
        FloatingPointError: a product has a NaN or an infinity.
    """
    n = _checked_size(op, k, tol, max_steps)
    limit = min(n, max(200, 20 * k) if max_steps is None else max_steps)
    process = LanczosProcess(op, seed)
    while True:
        process.step()
        values, residuals, coordinates = process.ritz()
        steps = len(values)
        complete = steps == n or (steps >= k and process.exhausts(values[k - 1], tol))
        converged = (residuals[:k] <= tol * values[0].abs()) & complete
        if steps == limit or (complete and bool(converged.all())):
            break
    return TopEigenvalues(
        values=values[:k],
        residuals=residuals[:k],
        converged=converged,
        products=process.products,
        vectors=process.basis.combine(coordinates[:, :k]) if vectors else None,
    )


class LanczosProcess:
    """H Q = Q T + r eᵀ, a column of Q (``basis``) and of the tridiagonal T (``tridiagonal()``) longer after each step.

    Where the Krylov space ends, T has a zero beside its diagonal and the next vector is random: T is then the direct
    sum of several chains. Every new vector is orthogonalised against all earlier ones.
    """

    def __init__(self, op: LinearOperator, seed: int) -> None:
        self._space = space_of(op)
        self.basis = self._space.basis()
        self.products = 0
        self.residual = self._vector = torch.empty(0)  # r: [n], and the last column of Q
        self._op = op
        self._generator = torch.Generator().manual_seed(seed)
        self._alphas: list[float] = []  # the diagonal of T
        self._betas: list[float] = []  # norm of r after each step, 0 where a chain ended
        self._defects: list[float] = []  # norm of what H q has inside the basis beside its column of Q T
        self._chain = 0  # where the current chain starts
        self._noise = 0.0  # norms below this are rounding

    def step(self) -> None:
        """One product: the next column of Q and T."""
        coupling = self._betas[-1] if self._betas else 0.0
        previous = self._vector
        if coupling == 0.0:
            self._chain = len(self.basis)
            self._vector = self._random_unit()
        else:
            self._vector = self.residual.div_(coupling)
        self.basis.append(self._vector)
        residual = self._op @ self._vector
        self.products += 1
        quotient = self._space.dot(self._vector, residual)
        residual.addcmul_(self._vector, quotient.to(residual.dtype), value=-1)
        if coupling != 0.0:
            residual.add_(previous, alpha=-coupling)
        # With the three terms of T gone, the pass over the basis finds rounding alone, and once is enough: a residual
        # so small that it were not counts as zero.
        defects = self.basis.orthogonalize(residual)
        alpha, beta, defect = torch.stack(
            [quotient, self._space.norm(residual), torch.linalg.vector_norm(defects)]
        ).tolist()
        if not math.isfinite(alpha):
            raise FloatingPointError(f"product {self.products} of the operator has NaN or infinite entries")
        self._extend(residual, alpha, beta, defect)

    def _extend(self, residual: Tensor, alpha: float, beta: float, defect: float) -> None:
        scale = max(abs(alpha), beta, *map(abs, self._alphas), *self._betas)
        self._noise = 100 * torch.finfo(residual.dtype).eps * scale
        if beta <= self._noise or len(self.basis) == self._space.n:
            beta, defect = 0.0, defect + beta
        self.residual = residual
        self._alphas.append(alpha)
        self._betas.append(beta)
        self._defects.append(defect)

    def _random_unit(self) -> Tensor:
        """A unit vector orthogonal to the basis; float32 draws, so that both dtypes start alike."""
        vector = self._space.normal(self._generator)
        for _ in range(2):  # near a full basis little is left of the draw: normalised, it is orthogonalised anew
            self.basis.orthogonalize(vector)
            vector /= self._space.norm(vector).to(vector.dtype)
        return vector

    @property
    def ended(self) -> bool:
        """Whether the Krylov space of the first vector is complete: its Ritz values are eigenvalues."""
        return self._chain > 0 or (bool(self._betas) and self._betas[-1] == 0.0)

    def tridiagonal(self) -> Tensor:
        """T: [m, m] float64 on the CPU after m steps."""
        beside = torch.tensor(self._betas[:-1], dtype=torch.float64)
        diagonal = torch.tensor(self._alphas, dtype=torch.float64).diag()
        return diagonal + beside.diag(1) + beside.diag(-1)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """All Ritz values by falling magnitude [m], residual bounds [m], coordinates in the basis [m, m] (columns)."""
        values, coordinates = torch.linalg.eigh(self.tridiagonal())
        order = values.abs().argsort(descending=True, stable=True)
        values, coordinates = values[order], coordinates[:, order]
        defects = torch.tensor(self._defects, dtype=torch.float64)
        residuals = self._betas[-1] * coordinates[-1].abs() + defects @ coordinates.abs()
        return values, residuals, coordinates

    def exhausts(self, smallest: Tensor, tol: float) -> bool:
        """Whether nothing larger in magnitude than ``smallest``, the k-th of the Ritz values, is left to be found.

        True while the first chain goes on: it meets every eigenspace. Once a chain has ended there may be further
        copies of what it found. A later chain lives in the complement of those before and meets every eigenspace that
        still has one: if its largest Ritz value is settled and does not exceed ``smallest``, no copy is left that does.
        """
        if self._chain == 0 and self._betas[-1] > 0.0:
            return True
        values, coordinates = torch.linalg.eigh(self.tridiagonal()[self._chain :, self._chain :])
        largest = values.abs().argmax()
        residual = self._betas[-1] * coordinates[-1, largest].abs()
        bound = smallest.abs()
        return bool(residual <= max(tol * bound, self._noise) and values[largest].abs() <= bound + self._noise)


def check_operator(op: LinearOperator, *, least: int = 1) -> None:
    """``op`` is square, of at least this size, and float32 or float64; TypeError or ValueError otherwise."""
    if len(op.shape) != 2 or op.shape[0] != op.shape[1] or op.shape[0] < least:
        raise ValueError(f"op: expected a square operator, got shape {tuple(op.shape)}")
    if op.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"op: expected float32 or float64, got {op.dtype}")


def _checked_size(op: LinearOperator, k: int, tol: float, max_steps: int | None) -> int:
    check_operator(op, least=0)  # of nothing there is no k
    if not 1 <= k <= op.shape[0]:
        raise ValueError(f"k: expected 1 to {op.shape[0]}, the size of the operator, got {k}")
    if not tol > 0:
        raise ValueError(f"tol: expected a positive number, got {tol}")
    if max_steps is not None and max_steps < k:
        raise ValueError(f"max_steps: expected at least k = {k}, got {max_steps}")
    return op.shape[0]
