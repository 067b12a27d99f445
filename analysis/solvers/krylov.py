"""Block Lanczos with reorthogonalisation and thick restart: the relation, not what is made of it.

Lanczos 1950; in blocks Golub & Underwood 1977; thick restart Wu & Simon 2000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alternet.analysis.solvers.operators import LinearOperator, multiply
from alternet.analysis.solvers.orthogonality import Orthogonality
from alternet.analysis.solvers.vectors import space_of


@dataclass(frozen=True, eq=False)
class RitzPairs:
    """All m of a process, float64 on the CPU; the chains that have ended first, without other order.

    values: [m].
    couplings: [m], ‖E s‖, the part of ‖Hu − θu‖ for the unit Ritz vectors u that further steps take away.
    residuals: [m], bounds of ‖Hu − θu‖: the couplings and what was measured of rounding and asymmetry.
    coordinates: [m, m], columns: the Ritz vectors in the basis.
    settled: how many belong to chains that have ended.
    """

    values: Tensor
    couplings: Tensor
    residuals: Tensor
    coordinates: Tensor
    settled: int


class LanczosProcess:
    """H Q = Q T + Rᵀ E with orthonormal columns of Q and rows of R: every step appends R to Q.

    Q: ``basis``, of m vectors. T: ``projection``, [m, m]. R: ``block``, [b, length], the next vectors. E: ``coupling``,
    [b, m], what H Q has along R. Every new vector is orthogonalised against all earlier ones; or, in blocks of one
    vector that may overlap by ``overlap`` > 0, where ``Orthogonality`` sees more coming.

    Where columns of a block turn out to lie in the space already, the block goes on narrower; where nothing is left of
    it, the Krylov space has ended: R is empty, Q spans an invariant subspace, and the next block is random. From there
    a new chain runs, to which T is not coupled.
    """

    def __init__(self, op: LinearOperator, seed: int, block_size: int = 1, overlap: float = 0.0) -> None:
        self.products = 0
        self.size = op.shape[0]
        self._op, self._space, self._width = op, space_of(op), block_size
        self.basis = self._space.basis()
        self.block = torch.empty(0, self._space.length, dtype=op.dtype, device=op.device)
        self.projection = torch.zeros(0, 0, dtype=torch.float64)
        self.coupling = torch.zeros(0, 0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._defects = torch.zeros(0, dtype=torch.float64)  # norms of what H q has beside its column of the relation
        partial = block_size == 1 and overlap > 0
        self._orthogonality = Orthogonality(overlap, torch.finfo(op.dtype).eps) if partial else None
        self._chain = 0  # where the current chain starts
        self._scale = 0.0  # the largest entry of T and E so far

    @property
    def ended(self) -> bool:
        """Whether the basis spans an invariant subspace, so that Ritz values are eigenvalues."""
        return len(self.block) == 0

    @property
    def link(self) -> float:
        """‖E‖: how far H is from leaving the basis's span to itself."""
        return float(torch.linalg.norm(self.coupling))

    @property
    def noise(self) -> float:
        """Norms below this are rounding."""
        return 100 * torch.finfo(self._space.dtype).eps * self._scale

    def step(self) -> None:
        """One product with every vector of a block."""
        self.extend(multiply(self._op, self.next_block()))

    def next_block(self) -> Tensor:
        """R [b, length], the vectors that the operator is to be applied to; random where a chain starts."""
        if self.ended:
            self._chain = len(self.basis)
            self.block = self._random_block(min(self._width, self.size - self._chain))
            self.coupling = torch.zeros(len(self.block), self._chain, dtype=torch.float64)
            if self._orthogonality is not None:
                self._orthogonality.begin(self._chain)
        return self.block

    def extend(self, images: Tensor) -> None:
        """Append R to Q, given images: [b, length], the products with ``next_block()``, which are overwritten."""
        coupled = self.coupling.any(dim=0).nonzero()  # the block before, after a restart the whole basis
        first = int(coupled[0]) if len(coupled) else len(self.basis)
        self.basis.append(self.block)
        quotients, squared = self._quotients(images, first)
        self._check_finite(quotients)
        # What the relation says is taken out first, so that the pass over the basis finds rounding alone, and once is
        # enough: a residual so small that it were not counts as zero.
        self.basis.subtract(torch.cat([self.coupling.t(), quotients]), images, start=first)
        self.products += len(images)
        self.projection = torch.cat(
            [
                torch.cat([self.projection, self.coupling]),
                torch.cat([self.coupling, (quotients + quotients.t()) / 2], dim=1).t(),
            ],
            dim=1,
        )
        self._scale = max(self._scale, float(quotients.abs().max()))
        removed, length = self._orthogonalize(images, squared)
        asymmetry = torch.linalg.vector_norm(quotients - quotients.t(), dim=0) / 2
        self._defects = torch.cat([self._defects, removed + asymmetry])
        if len(images) == 1:
            self._normalize(images, length)
        else:
            self._split(images)

    def _quotients(self, images: Tensor, first: int) -> tuple[Tensor, float]:
        """qᵀ H q [b, b] of the block, and the squared norm of what the relation leaves of its one image, else NaN.

        ``first``: of the vectors to which the block is coupled.
        """
        size = len(self.basis)
        if self._orthogonality is None or size - first > 2:
            return self._space.products(self.block, images).cpu(), math.nan
        *earlier, quotient, squared = self.basis.dots(images[0], start=first).tolist()
        taken = quotient**2
        for found, coupling in zip(earlier, self.coupling[0, first:].tolist(), strict=True):
            self._orthogonality.asymmetric(abs(found - coupling))
            taken += (2 * found - coupling) * coupling
        return torch.tensor([[quotient]], dtype=torch.float64), _left(squared, taken)

    def _orthogonalize(self, images: Tensor, squared: float) -> tuple[Tensor, float]:
        """Make images: [b, length] orthogonal to the basis; norms [b] of what was taken out, and the norm of what is
        left of one, NaN where it was not measured. ``squared``: that of the image, or NaN.
        """
        if self._orthogonality is None:
            return torch.linalg.vector_norm(self.basis.orthogonalize(images), dim=0).cpu(), math.nan
        length = float(self._space.norm(images[0])) if math.isnan(squared) else math.sqrt(squared)
        overlaps = self._orthogonality.predict(self.projection)
        if not self._orthogonality.due(overlaps, length):
            self._orthogonality.trust(overlaps, length)
            return torch.zeros(1, dtype=torch.float64), length
        found = self.basis.project(images)
        if not self._orthogonality.measured(overlaps, found[:, 0].cpu(), length):
            return torch.zeros(1, dtype=torch.float64), length
        self.basis.subtract(found, images)
        removed = torch.linalg.vector_norm(found, dim=0).cpu()
        if self._orthogonality.leaves(float(removed), length):
            self.basis.orthogonalize(images)
            return removed, math.nan
        return removed, math.sqrt(_left(length**2, float(removed) ** 2))

    def _check_finite(self, quotients: Tensor) -> None:
        finite = quotients.isfinite().all(dim=0)
        if not bool(finite.all()):
            first = self.products + int((~finite).nonzero()[0]) + 1
            raise FloatingPointError(f"product {first} of the operator has NaN or infinite entries")

    @property
    def _least(self) -> float:
        """What has this norm has ended; a whole space has no more directions."""
        return torch.inf if len(self.basis) == self.size else self.noise

    def _normalize(self, residual: Tensor, length: float) -> None:
        """The next R and E of a block of one vector: [1, length], of this norm, or NaN."""
        length = float(self._space.norm(residual[0])) if math.isnan(length) else length
        going_on = length > self._least
        self.block = torch.div(residual, length, out=self.basis.room()) if going_on else residual[:0]
        self.coupling = torch.zeros(len(self.block), len(self.basis), dtype=torch.float64)
        self.coupling[:, -1] = length
        if going_on:
            self._scale = max(self._scale, length)
        else:
            self._defects[-1] += length

    def _split(self, residuals: Tensor) -> None:
        """The next R and E, from residuals: [b, length] that are orthogonal to the basis; narrower by what is noise."""
        width = len(residuals)
        block, factor, lost = self._space.orthonormalize(residuals, self._least)
        self._defects[-width:] += lost
        if len(block):  # where rows were nearly parallel, what rounding left of the basis has grown
            self.basis.orthogonalize(block)
            block, again, _ = self._space.orthonormalize(block, 0.0)
            factor = again @ factor
        before = torch.zeros(len(block), len(self.basis) - width, dtype=torch.float64)
        self.block, self.coupling = block, torch.cat([before, factor], dim=1)
        self._scale = max(self._scale, float(factor.abs().max()) if len(block) else 0.0)

    def end(self) -> None:
        """Leave R out, as of no account: what it held goes to the residuals, and the next block starts a chain."""
        self._defects = self._defects + torch.linalg.vector_norm(self.coupling, dim=0)
        self.block, self.coupling = self.block[:0], self.coupling[:0]

    def _random_block(self, count: int) -> Tensor:
        """Orthonormal rows [count, length] orthogonal to the basis; float32 draws, so that both dtypes start alike."""
        rows = torch.empty(count, self._space.length, dtype=self._space.dtype, device=self._space.device)
        for row in rows:
            self._space.normal(self._generator, out=row)
        for _ in range(2 if len(self.basis) else 1):  # near a full basis little is left of a draw: once more then
            self.basis.orthogonalize(rows)
            self._space.orthonormalize(rows, 0.0)
        return rows

    def ritz(self) -> RitzPairs:
        """The eigenpairs of T, those of ended chains and of the current one apart: equal values do not mix."""
        settled = self._chain
        parts = [self.projection[:settled, :settled], self.projection[settled:, settled:]]
        values, coordinates = zip(*map(torch.linalg.eigh, parts), strict=True)
        vectors = torch.block_diag(*coordinates)
        couplings = torch.linalg.vector_norm(self.coupling @ vectors, dim=0)
        residuals = couplings + self._defects @ vectors.abs()
        if self._orthogonality is not None:  # a Ritz vector is nearly, not quite, as long as its coordinates
            residuals = residuals / math.sqrt(max(1 - self._orthogonality.loss(len(vectors)), 0.25))
        rows = torch.stack([torch.cat(values), couplings, residuals])
        agreed = self._space.agreed(torch.cat([rows, vectors]))
        return RitzPairs(agreed[0], agreed[1], agreed[2], agreed[3:], settled)

    def restart(self, pairs: RitzPairs, keep: Tensor) -> None:
        """Q becomes the Ritz vectors ``keep``: [l], indices into ``pairs = self.ritz()``; the relation goes on."""
        keep = keep.sort().values  # ended chains stay first
        coordinates = pairs.coordinates[:, keep]
        self.basis.compress(coordinates)
        if self._orthogonality is not None:
            self._orthogonality.restart(coordinates)
        self.projection = pairs.values[keep].diag()
        self.coupling = self.coupling @ coordinates
        self._defects = self._defects @ coordinates.abs() + torch.finfo(self._space.dtype).eps * self._scale
        self._chain = int((keep < pairs.settled).sum())


def _left(squared: float, taken: float) -> float:
    """The difference, NaN where it has lost digits."""
    left = squared - taken
    return left if left > squared / 4 else math.nan
