"""Eigenpairs of an operator from those of a cheaper one near it: Rayleigh-Ritz, and Davidson's expansion.

Davidson 1975; Morgan & Scott 1986. What the cheaper operator, the draft, spans and how it acts there serves as start
and as preconditioner; every number comes from products of the operator itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alternet.analysis.solvers.krylov import LanczosProcess, RitzPairs
from alternet.analysis.solvers.operators import LinearOperator, multiply
from alternet.analysis.solvers.ritz import Wanted, key
from alternet.analysis.solvers.vectors import space_of


class Refinement:
    """The wanted Ritz pairs of ``op`` in a space V that starts as those of ``draft`` and grows by corrections.

    V and its products H V are kept, so that residuals are true ones: H u - θ u, from products of ``op``.

    values: [m] all Ritz values, float64 on the CPU, as all below.
    chosen: [k] indices of the wanted ones.
    norms: [k] of their residuals.
    """

    def __init__(self, op: LinearOperator, draft: LanczosProcess, wanted: Wanted) -> None:
        self.products = 0
        self.values = self.norms = torch.empty(0, dtype=torch.float64)
        self.chosen = torch.empty(0, dtype=torch.int64)
        self._op, self._wanted, self._draft = op, wanted, _Draft(draft, wanted)
        self._space = space_of(op)
        self._basis, self._images = self._space.basis(), self._space.basis()
        self._projection = torch.zeros(0, 0, dtype=torch.float64)  # Vᵀ H V
        self._add(self._draft.vectors(self._draft.first))
        # How far op is from its draft shows now; what of the draft comes within that of the wanted may be wanted.
        shifts = (self.values[self.chosen] - self._draft.values(self._draft.first)).abs()
        self.draft_error = float(torch.maximum(self.norms, shifts).max())
        doubtful = self._draft.doubtful(self.draft_error)
        if len(doubtful):
            self._add(self._draft.vectors(doubtful))

    def improve(self, unfinished: Tensor, most: int) -> bool:
        """Add a correction for each wanted pair that unfinished: [k] says; False where there is nothing to add.

        The space is cut down to its best Ritz vectors first where it would grow beyond ``most``.
        """
        shifts = self.values[self.chosen][unfinished]
        rows = self._draft.precondition(self._residuals[unfinished], shifts, self.norms[unfinished])
        if len(self._basis) + len(rows) > most:
            self._restart(max(most // 2, self._wanted.k))
        return self._add(rows)

    def vectors(self) -> Tensor:
        """The wanted Ritz vectors as columns [length, k]."""
        return self._basis.combine(self._coordinates[:, self.chosen])

    def others(self) -> tuple[Tensor, Tensor]:
        """Values of the draft that are none of the wanted, and how far off they may be."""
        return self._draft.others(self.draft_error)

    def _add(self, rows: Tensor) -> bool:
        """V grows by what is new in rows: [m, length], which are overwritten."""
        least = 100 * torch.finfo(rows.dtype).eps
        for row in rows:
            row /= self._space.norm(row).clamp(min=torch.finfo(rows.dtype).tiny).to(rows.dtype)
        for _ in range(2):
            self._basis.orthogonalize(rows)
            rows, _, _ = self._space.orthonormalize(rows, least)
        if not len(rows):
            return False
        images = multiply(self._op, rows)
        self._basis.append(rows)
        self._images.append(images)
        columns = self._basis.project(images).cpu()
        if not bool(columns.isfinite().all()):
            raise FloatingPointError(f"product {self.products + 1} or a later one has NaN or infinite entries")
        self.products += len(rows)
        old = len(columns) - len(rows)
        square = (columns[old:] + columns[old:].t()) / 2
        upper = torch.cat([self._projection, columns[:old]], dim=1)
        self._projection = torch.cat([upper, torch.cat([columns[:old].t(), square], dim=1)])
        self._rayleigh_ritz()
        return True

    def _rayleigh_ritz(self) -> None:
        values, coordinates = torch.linalg.eigh(self._projection)
        agreed = self._space.agreed(torch.cat([values[None], coordinates]))
        self.values, self._coordinates = agreed[0], agreed[1:]
        self.chosen = self._wanted.chosen(self.values)
        coordinates = self._coordinates[:, self.chosen]
        self._residuals = self._images.combine(coordinates).t()
        self._basis.subtract(coordinates * self.values[self.chosen], self._residuals)
        self.norms = torch.stack([self._space.norm(row) for row in self._residuals]).cpu()

    def _restart(self, count: int) -> None:
        keep = self._wanted.order(self.values)[:count]
        for part in (self._basis, self._images):
            part.compress(self._coordinates[:, keep])
        self._projection = self.values[keep].diag()
        self._rayleigh_ritz()


class _Draft:
    """The Ritz pairs of a Lanczos process, as a start and as an approximate inverse."""

    def __init__(self, process: LanczosProcess, wanted: Wanted) -> None:
        self._basis, self._wanted = process.basis, wanted
        self._pairs: RitzPairs = process.ritz()
        self.first = wanted.chosen(self._pairs.values)

    def values(self, index: Tensor) -> Tensor:
        """The Ritz values ``index``."""
        return self._pairs.values[index]

    def vectors(self, index: Tensor) -> Tensor:
        """The Ritz vectors ``index`` as rows."""
        return self._basis.combine(self._pairs.coordinates[:, index]).t()

    def doubtful(self, error: float) -> Tensor:
        """Indices of those that an error of the values might make wanted; at most as many as are wanted."""
        ranks = key(self._pairs.values, self._wanted.ends[0][0])
        next_ones = self._wanted.order(self._pairs.values)[self._wanted.k :][: self._wanted.k]
        apart = (ranks[next_ones][:, None] - ranks[self.first]).abs()
        return next_ones[(apart <= 2 * error).any(dim=1)]

    def others(self, error: float) -> tuple[Tensor, Tensor]:
        """All but the first ones: values, and bounds of how far an eigenvalue of the operator is from each."""
        rest = torch.ones(len(self._pairs.values), dtype=torch.bool)
        rest[self.first] = False
        return self._pairs.values[rest], self._pairs.residuals[rest] + error

    def precondition(self, residuals: Tensor, shifts: Tensor, least: Tensor) -> Tensor:
        """(L - θ)⁻¹ r up to a factor, for the rows r of residuals: [m, length] and θ of shifts: [m], new rows.

        L: the Ritz values on the Ritz vectors, and 0, about where a Hessian has nearly all its eigenvalues, on the
        rest. Differences from θ count as ``least``: [m] at least; along the first vectors, which are in V, nothing is
        wanted.
        """
        coefficients = self._pairs.coordinates.t() @ self._basis.project(residuals).cpu()
        weights = _away_from_zero(-shifts, least) / _away_from_zero(self._pairs.values[:, None] - shifts, least) - 1
        weights[self.first] = 0
        rows = residuals.clone()
        self._basis.subtract(-self._pairs.coordinates @ (weights * coefficients), rows)
        return rows


def _away_from_zero(values: Tensor, least: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0) * values.abs().maximum(least.clamp(min=torch.finfo(torch.float64).tiny))
