"""Eigenvalues from the ends of a symmetric operator's spectrum, by Lanczos with reorthogonalisation.

The solver knows an operator by its ``shape``, ``dtype``, ``device`` and ``op @ v``: a ``HessianOperator``, a dense
tensor, or anything with these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.progress import Report
from alternet.analysis.solvers.krylov import LanczosProcess, RitzPairs
from alternet.analysis.solvers.operators import LinearOperator, check_operator
from alternet.analysis.solvers.refinement import Refinement
from alternet.analysis.solvers.ritz import Wanted, gap_bounds, key, rounding
from alternet.analysis.solvers.vectors import Basis

WHICH = ("LM", "LA", "SA", "BE")

# What residuals are to be of the tolerance before a search stops, or how many steps ago they met it. Of 1200 spectra
# (nine eigenvalues before a bulk, a heavy tail, no gaps) one of the first five was missed in none at 1e-3, and in 7 of
# 400 at 1e-2; where two steps in a row that met the tolerance were enough, in 44 and 69, for 0 to 6 products less.
LATECOMERS, PATIENCE = 0.03, 10


@dataclass(frozen=True, eq=False)
class TopEigenvalues:
    """Ritz values, the most wanted first, and how good they are. Tensors are on the CPU but for ``vectors``.

    values: [k] float64.
    residuals: [k] float64, bounds of ‖Hu − θu‖ for the unit Ritz vectors u. They come without further products from
        the Lanczos relation: ‖E s‖, plus what the basis measured of H being unsymmetric in floating point.
    bounds: [k] float64: within this distance of θ lies an eigenvalue of H. The residual, and 10 epsilons of the largest
        magnitude for what the solver cannot see, the rounding of H @ v itself.
    gap_bounds: [k] float64: the same by Kato and Temple, of the order of the residual squared over the gap. They rely
        on the nearest other Ritz value standing for the nearest other eigenvalue: not so where two eigenvalues closer
        together than the residual are seen as one.
    converged: [k] bool, ``residuals`` within the tolerance, and no sign of an eigenvalue still to be found that would
        be wanted more.
    products: how many times H was applied.
    vectors: [n, k] in the operator's dtype on its device where they were asked for, else None.
    draft_products: how many times its draft was applied. None of the numbers above is from those: whatever the draft,
        they are of H in H's own precision, and ``residuals`` are then ‖H u − θ u‖ itself.
    """

    values: Tensor
    residuals: Tensor
    bounds: Tensor
    gap_bounds: Tensor
    converged: Tensor
    products: int
    vectors: Tensor | None = None
    draft_products: int = 0


def top_eigenvalues(
    op: LinearOperator,
    k: int = 5,
    *,
    which: str = "LM",
    tol: float = 1e-3,
    block_size: int = 1,
    max_basis: int | None = None,
    max_products: int | None = None,
    seed: int = 0,
    vectors: bool = False,
    draft: LinearOperator | None = None,
    progress: Report | None = None,
) -> TopEigenvalues:
    """The ``k`` eigenvalues at one end, or both, of the symmetric ``op``'s spectrum, by thick-restart block Lanczos.

    Lanczos 1950, restarted after Wu & Simon 2000. ``tol`` times the largest magnitude among the wanted ("BE": among
    those at its end) is what residuals must meet; the search stops when they are 0.03 of that, or ten steps later, or
    would be but for rounding and asymmetry of ``op``, which further steps do not mend: ``converged`` is False where
    they do not meet it. The eigenvalues' own error is of the order of the residual squared over the gap, hence far
    smaller. The start vectors are drawn on the CPU from ``seed``, so that they are the same on any device.

    An eigenvalue of which a start vector holds next to nothing may be missed, as by any Krylov method, though what was
    found has converged: rarely at a ``tol`` of 1e-3, the more so the looser it is; another seed, or a block, shows it.

    A Krylov space of ``block_size`` start vectors holds as many vectors of every eigenspace: a block finds that many
    copies of a repeated eigenvalue, for more products in all. Where the space ends (few distinct eigenvalues), the
    search goes on from new random vectors orthogonal to all it has found, until that finds nothing more wanted than
    the ``k`` values at hand; so repeated eigenvalues of such operators are counted with their multiplicity. In a
    spectrum of many distinct eigenvalues, those closer together than ``tol`` times the largest may be seen as one: a
    smaller ``tol`` tells them apart, and exact copies a larger block. So a large null space (that of a Gauss-Newton
    matrix, by "SA" or "BE") may count for one or two zeros, and the smallest positive values come after them.

    Args:
        op: symmetric, float32 or float64, [n, n].
        k: 1 to n.
        which: "LM" the largest magnitudes, in falling order of them; "LA" the algebraically largest, falling; "SA" the
            smallest, rising; "BE" half from either end, falling, one more from the high end where k is odd.
        block_size: vectors multiplied at once, by ``op.matmat`` where there is one.
        max_basis: so many vectors of the operator's size are kept, beside two blocks; a full basis is cut down to its
            best Ritz vectors and grows again. By default 4 k + 20, and what of 16 vectors, the pieces that memory is
            taken in, that leaves.
        max_products: give up after as many, with ``converged`` False for what is not found; by default
            max(200, 20 k), or n where that is less.
        vectors: return Ritz vectors too, orthonormal to rounding: every step then reorthogonalises against all vectors,
            which it otherwise does where more overlap than a fifth of ``tol``, or the root of epsilon, is to come.
        draft: a cheaper operator near ``op``, of its shape, dtype and device, such as
            ``op.under_autocast(torch.bfloat16)``. The Krylov space is the draft's; ``op`` is applied to
            the wanted Ritz vectors, and to corrections of them until the residuals, now true ones, meet ``tol``. Few
            products of ``op`` do at the end of large magnitude: its values are right to the square of the draft's
            error at once. What the draft's Krylov space does not hold is not found, though ``converged`` is true of
            the values that are: where exact copies of an eigenvalue matter, use none. ``max_products`` holds for
            either operator.
        progress: called with the products done and ``max_products``, first with 0, then after each step; counts ``op``
            from 0 again after its draft.

    Raises:
        TypeError: ``op`` is not float32 or float64.
        ValueError: an argument out of range, or a draft of another kind.
        FloatingPointError: a product has a NaN or an infinity.
    """
    limits = _Limits.checked(op, k, which, tol, block_size, max_basis, max_products)
    if draft is not None:
        _check_draft(op, draft)
    wanted = Wanted(which, k)
    # Residuals come to measure any overlap that is taken out, which must leave them room below the tolerance. A draft's
    # products are no symmetric matrix, and vectors are to be orthogonal to rounding: nothing may be lost.
    overlap = 0.0 if vectors or draft is not None else min(torch.finfo(op.dtype).eps ** 0.5, tol / 5)
    process = LanczosProcess(op if draft is None else draft, seed, block_size, overlap)
    with plain_arithmetic(torch.device(op.device)):
        converged = _draw_out(process, wanted, tol, limits, progress)
        if draft is None:
            return _result(process, wanted, converged, vectors)
        return _refined(op, process, wanted, tol, limits, vectors, progress)


def _draw_out(process: LanczosProcess, wanted: Wanted, tol: float, limits: _Limits, progress: Report | None) -> Tensor:
    """Steps and restarts until the wanted Ritz pairs are as good as ``tol`` asks, or the limits allow; which are.

    An eigenvalue of which the start vector holds the fraction f of what it holds of the others comes late: their
    residuals are about f times the gap when it shows. So residuals must be a good deal smaller than asked for
    (``LATECOMERS``), which a step or two see to where there are gaps; where there are none it may take ``PATIENCE``.
    Where no more than that links the whole space to what comes next, it has ended: copies may be missing, and a chain
    that only rounding carries on must not pass for the first one.
    """
    left = PATIENCE
    if progress is not None:
        progress(0, limits.products)
    while True:
        process.step()
        pairs = process.ritz()
        if not process.ended and process.link <= LATECOMERS * _allowed(pairs.values, wanted, tol).min():
            process.end()
            pairs = process.ritz()
        converged, good, enough = _assess(process, pairs, wanted, tol)
        left -= int(good or left < PATIENCE)  # from the first good step on
        if progress is not None:
            progress(process.products, limits.products)
        if enough or (good and left <= 0) or process.products >= limits.products:
            return converged
        if len(process.basis) + max(len(process.block), limits.block_size) > limits.basis < process.size:
            process.restart(pairs, limits.kept(pairs, wanted))


def _result(process: LanczosProcess, wanted: Wanted, converged: Tensor, vectors: bool) -> TopEigenvalues:
    pairs = process.ritz()
    chosen = wanted.chosen(pairs.values)
    allowance = rounding(pairs.values, process.basis.dtype)
    return TopEigenvalues(
        values=pairs.values[chosen],
        residuals=pairs.residuals[chosen],
        bounds=pairs.residuals[chosen] + allowance,
        gap_bounds=gap_bounds(pairs.values, pairs.residuals, chosen) + allowance,
        converged=converged,
        products=process.products,
        vectors=process.basis.combine(pairs.coordinates[:, chosen]) if vectors else None,
    )


def _refined(
    op: LinearOperator,
    draft: LanczosProcess,
    wanted: Wanted,
    tol: float,
    limits: _Limits,
    vectors: bool,
    progress: Report | None,
) -> TopEigenvalues:
    """The pairs that ``draft`` has found, corrected by products of ``op`` until their true residuals meet ``tol``."""
    if progress is not None:
        progress(0, limits.products)
    refinement = Refinement(op, draft, wanted)
    while True:
        values, residuals = refinement.values[refinement.chosen], refinement.norms
        converged = residuals <= tol * wanted.scales(values)
        if progress is not None:
            progress(refinement.products, limits.products)
        if bool(converged.all()) or refinement.products >= limits.products:
            break
        if not refinement.improve(~converged, max(limits.basis // 2, 3 * wanted.k)):
            break
    other_values, other_residuals = refinement.others()
    allowance = rounding(values, op.dtype)
    gaps = gap_bounds(
        torch.cat([values, other_values]), torch.cat([residuals, other_residuals]), torch.arange(wanted.k)
    )
    return TopEigenvalues(
        values=values,
        residuals=residuals,
        bounds=residuals + allowance,
        gap_bounds=gaps + allowance,
        converged=converged,
        products=refinement.products,
        draft_products=draft.products,
        vectors=refinement.vectors() if vectors else None,
    )


def _assess(process: LanczosProcess, pairs: RitzPairs, wanted: Wanted, tol: float) -> tuple[Tensor, bool, bool]:
    """Whether each wanted Ritz value has converged, whether more steps are of no use to them, and to any latecomer."""
    chosen = wanted.chosen(pairs.values)
    allowed = _allowed(pairs.values, wanted, tol)
    enough = len(chosen) == wanted.k
    complete = len(process.basis) == process.size or (enough and _exhausted(process, pairs, wanted, tol))
    left = pairs.couplings[chosen]
    good, settled = (complete and bool((left <= share * allowed).all()) for share in (1.0, LATECOMERS))
    return (pairs.residuals[chosen] <= allowed) & complete, good, settled or (good and process.ended)


def _allowed(values: Tensor, wanted: Wanted, tol: float) -> Tensor:
    """What the residuals of the wanted among values: [m] may be."""
    return tol * wanted.scales(values[wanted.chosen(values)])


def _exhausted(process: LanczosProcess, pairs: RitzPairs, wanted: Wanted, tol: float) -> bool:
    """Whether nothing more wanted than the ``k`` Ritz values at hand is left to be found.

    True while the first chain goes on: it meets every eigenspace. Once a chain has ended there may be further copies of
    what it found. A later chain lives in the complement of those before and meets every eigenspace that still has one:
    if its most wanted Ritz value is settled and no more wanted than those at hand, no copy is left that is.
    """
    if pairs.settled == 0 and not process.ended:
        return True
    for which, count in wanted.ends:
        ranks = key(pairs.values, which)
        if count == 0:
            continue
        candidate = pairs.settled + int(ranks[pairs.settled :].argmax())
        last = ranks.sort(descending=True).values[count - 1]
        settled = pairs.couplings[candidate] <= max(tol * float(last.abs()), process.noise)
        if not settled or ranks[candidate] > last + process.noise:
            return False
    return True


def _check_draft(op: LinearOperator, draft: LinearOperator) -> None:
    kinds = [(tuple(each.shape), each.dtype, torch.device(each.device)) for each in (op, draft)]
    if kinds[0] != kinds[1]:
        (shape, dtype, device), (low_shape, low_dtype, low_device) = kinds
        raise ValueError(
            f"draft: expected an operator like op, {list(shape)} with {dtype} vectors on {device}, "
            f"got {list(low_shape)}, {low_dtype} on {low_device}"
        )


@dataclass(frozen=True)
class _Limits:
    """How many vectors are kept, and how many products made."""

    basis: int
    products: int
    block_size: int

    @classmethod
    def checked(
        cls,
        op: LinearOperator,
        k: int,
        which: str,
        tol: float,
        block_size: int,
        max_basis: int | None,
        max_products: int | None,
    ) -> _Limits:
        check_operator(op, least=0)  # of nothing there is no k
        n = op.shape[0]
        if which not in WHICH:
            raise ValueError(f"which: expected one of {list(WHICH)}, got {which!r}")
        if not 1 <= k <= n:
            raise ValueError(f"k: expected 1 to {n}, the size of the operator, got {k}")
        if not tol > 0:
            raise ValueError(f"tol: expected a positive number, got {tol}")
        if not 1 <= block_size <= n:
            raise ValueError(f"block_size: expected 1 to {n}, the size of the operator, got {block_size}")
        least = min(k + 2 * block_size, n)
        if max_basis is not None and max_basis < least:
            raise ValueError(f"max_basis: expected at least {least}, k and two blocks, got {max_basis}")
        if max_products is not None and max_products < k:
            raise ValueError(f"max_products: expected at least k = {k}, got {max_products}")
        basis = -(-max(4 * k + 20, least) // Basis.ROWS) * Basis.ROWS if max_basis is None else max_basis
        return cls(basis, min(n, max(200, 20 * k)) if max_products is None else max_products, block_size)

    def kept(self, pairs: RitzPairs, wanted: Wanted) -> Tensor:
        """What a restart keeps: the wanted Ritz pairs, and for half of the room left the next ones of this chain."""
        order = wanted.order(pairs.values)
        others = order[wanted.k :]
        others = others[others >= pairs.settled]
        return torch.cat([order[: wanted.k], others[: (self.basis - wanted.k) // 2 - self.block_size + 1]])
