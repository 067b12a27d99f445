"""Arithmetic on very long vectors: every inner product, norm, draw and basis that the solvers use.

On a CPU float32 ``norm``, ``dot`` and ``mv`` add millions of terms into a few float32 lanes. Where the entries are
concentrated, as those of Hessian eigenvectors are, that is off by up to 2.5e-3, always towards zero, and eigenvalues
and orthogonality inherit it. Here only blocks are added in float32, and the blocks in float64: the time is the same,
and what is left is float32 rounding.

The solvers touch vectors through a ``VectorSpace`` alone. One whose vectors are spread over several processes says
which entries live here and how partial sums are added up; everything else follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

DRAW = 1 << 20  # entries drawn at once
DOUBLES = 1 << 17  # entries turned into float64 at once: they stay in the cache, and two threads share them
ADDENDS = 1 << 10  # entries that a CPU adds up in float32


class VectorSpace:
    """Vectors of ``n`` entries in one dtype on one device, of which this process holds those in ``here``.

    Several vectors are rows [m, length], contiguous, where ``length`` is the number of entries held here. Results of
    reductions are float64, on the vectors' device, and the same in every process. A space that is spread over processes
    gives each its ``here`` and overrides ``total``; an operator on it has it as attribute ``space``, and multiplies
    local parts [length] into local parts.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device, here: slice | None = None) -> None:
        self.n, self.dtype, self.device = n, dtype, torch.device(device)
        self.here = slice(0, n) if here is None else here
        self.length = self.here.stop - self.here.start

    def total(self, partial: Tensor) -> Tensor:
        """The sum over all processes of ``partial``: float64, of any shape, which may be overwritten."""
        return partial

    def agreed(self, values: Tensor) -> Tensor:
        """``values`` as the first process has them: the last bits of LAPACK's may differ from process to process.

        What all processes decide on, where to stop above all, must be a ``total`` or agreed.
        """
        return values

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner product of x: [length] and y: [length] in float64 arithmetic, a tensor without axes."""
        rows = x[None]
        return self.products(rows, rows if x is y else y[None])[0, 0]

    def norm(self, x: Tensor) -> Tensor:
        """Euclidean norm of x: [length] in float64 arithmetic, a tensor without axes."""
        return self.dot(x, x).sqrt()

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """All inner products [m, p] of the rows of x: [m, length] and y: [p, length], in float64 arithmetic."""
        sums = torch.zeros(len(x), len(y), dtype=torch.float64, device=self.device)
        left = self.doubles(len(x))
        right = left if x is y else self.doubles(len(y))
        for block, size in self.blocks(DOUBLES):
            left[:, :size] = x[:, block]
            if right is not left:
                right[:, :size] = y[:, block]
            sums += left[:, :size] @ right[:, :size].t()
        return self.total(sums)

    def subtract(self, coefficients: Tensor, x: Tensor, y: Tensor) -> None:
        """From the rows of y: [p, length] what coefficients: [m, p] say of the rows of x: [m, length], in place."""
        weights = coefficients.to(self.device, self.dtype)
        if len(y) > 1:
            y.addmm_(weights.t(), x, alpha=-1)
        elif len(x) > 1:
            y[0].addmv_(x.t(), weights[:, 0], alpha=-1)
        elif len(x):
            y.addcmul_(x, weights, value=-1)

    def orthonormalize(self, rows: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal rows and F: [count, m] with rows: [m, length] = Fᵀ times them, by Gram-Schmidt in place.

        Rows of which no more than ``least`` is left are dropped; the third result, [m], is the norm of that, or 0. Both
        are float64 on the CPU. Twice is enough (Giraud et al. 2005).
        """
        count, lost = 0, torch.zeros(len(rows), dtype=torch.float64)
        factor = torch.zeros(len(rows), len(rows), dtype=torch.float64)
        for i in range(len(rows)):
            row = rows[i : i + 1]
            for _ in range(2 if count else 0):
                overlaps = self.products(rows[:count], row)
                self.subtract(overlaps, rows[:count], row)
                factor[:count, i] += overlaps[:, 0].cpu()
            length = float(self.norm(row[0]))
            if length <= least:
                lost[i] = length
                continue
            factor[count, i] = length
            torch.div(row, length, out=rows[count : count + 1])
            count += 1
        return rows[:count], factor[:count], lost

    def normal(self, generator: torch.Generator, out: Tensor | None = None) -> Tensor:
        """A vector [length] of standard normal entries; the whole is the same on any device and however spread."""
        return self._draw(lambda size: torch.randn(size, generator=generator, dtype=torch.float32), out)

    def signs(self, generator: torch.Generator) -> Tensor:
        """A vector [length] of random signs; the whole is the same on any device and however spread."""
        coins = self._draw(lambda size: torch.randint(0, 2, (size,), generator=generator, dtype=torch.int8))
        return coins.mul_(2).sub_(1)

    def basis(self) -> Basis:
        """An empty basis of vectors of this space."""
        return Basis(self)

    def _draw(self, draw: Callable[[int], Tensor], out: Tensor | None = None) -> Tensor:
        """Drawn on the CPU, block by block, of which the entries held here are kept."""
        vector = torch.empty(self.length, dtype=self.dtype, device=self.device) if out is None else out
        for start in range(0, self.n, DRAW):
            values = draw(min(DRAW, self.n - start))
            low, high = max(start, self.here.start), min(start + len(values), self.here.stop)
            if low < high:
                vector[low - self.here.start : high - self.here.start] = values[low - start : high - start]
        return vector

    def partial_products(self, x: Tensor, y: Tensor) -> Tensor:
        """``products`` of these entries alone, no ``total``: float32 within short pieces, whose sums are float64."""
        # A GPU adds in trees, so that only the number of pieces matters. One batched product of all of them, in this
        # order of the operands, is as fast as memory; mv of one piece after the other takes twice the time.
        size = ADDENDS if self.device.type == "cpu" else 1 << 20
        count = self.length // size
        cut = count * size
        pieces = [rows[:, :cut].view(len(rows), count, size) for rows in (x, y)]
        sums = torch.bmm(pieces[1].transpose(0, 1), pieces[0].permute(1, 2, 0)).sum(0, dtype=torch.float64)
        return (sums + y[:, cut:] @ x[:, cut:].t()).t()

    def blocks(self, entries: int) -> Iterator[tuple[slice, int]]:
        """The entries held here, so many at a time, and how many those are."""
        for start in range(0, self.length, entries):
            stop = min(start + entries, self.length)
            yield slice(start, stop), stop - start

    def doubles(self, rows: int, entries: int = DOUBLES) -> Tensor:
        """[rows, entries] to turn blocks into float64 in: fresh memory for each would be cleared by the system."""
        return torch.empty(rows, min(entries, self.length), dtype=torch.float64, device=self.device)


def space_of(op: Any) -> VectorSpace:
    """The space an operator brings as ``op.space``, else that of whole vectors of its size, dtype and device."""
    space = getattr(op, "space", None)
    return VectorSpace(op.shape[0], op.dtype, op.device) if space is None else space


class Basis:
    """A growing set of orthonormal vectors of one space.

    They are kept as rows in tensors of ``ROWS`` vectors each: large enough for matrix-vector products to run at the
    memory's speed, small enough that growing copies nothing and wastes little.
    """

    ROWS = 16

    def __init__(self, space: VectorSpace) -> None:
        self._space = space
        self._storage: list[Tensor] = []  # each [ROWS, length]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def dtype(self) -> torch.dtype:
        return self._space.dtype

    def __getitem__(self, i: int) -> Tensor:
        """Vector i: [length], a view of the basis, which nobody may change."""
        return self._storage[i // self.ROWS][i % self.ROWS]

    def append(self, vectors: Tensor) -> None:
        """Add vectors: [length], or rows [m, length], which the caller has orthogonalised and normalised."""
        for row in vectors if vectors.dim() == 2 else vectors[None]:
            chunk, place = divmod(self._size, self.ROWS)
            if chunk == len(self._storage):  # after ``compress`` there may be room
                self._storage.append(row.new_empty(self.ROWS, self._space.length))
            if row.data_ptr() != self._storage[chunk][place].data_ptr():
                self._storage[chunk][place] = row
            self._size += 1

    def room(self) -> Tensor:
        """Memory [1, length] for the next vector, of the basis if there is some left: ``append`` then copies nothing.

        Its values hold until then, or until other vectors are appended.
        """
        chunk, place = divmod(self._size, self.ROWS)
        if chunk == len(self._storage):
            return torch.empty(1, self._space.length, dtype=self.dtype, device=self._space.device)
        return self._storage[chunk][place : place + 1]

    def vectors(self) -> Tensor:
        """A copy of all vectors as columns, [length, len(self)]."""
        return torch.cat([rows for rows, _ in self._filled()]).t()

    def orthogonalize(self, vectors: Tensor) -> Tensor:
        """Make vectors: [length], or rows [m, length], orthogonal to the basis, in place.

        Returns the coefficients [len(self)], or [len(self), m], taken out, float64.

        One pass of classical Gram-Schmidt: what is left may overlap with the basis by rounding times the cancellation,
        that is the norm of a vector before over after.
        """
        rows = vectors if vectors.dim() == 2 else vectors[None]
        coefficients = self.project(rows)
        self.subtract(coefficients, rows)
        return coefficients if vectors.dim() == 2 else coefficients[:, 0]

    def project(self, vectors: Tensor) -> Tensor:
        """Coefficients [len(self), m] of vectors: [m, length], float64 over blocks; one reduction."""
        sums = torch.zeros(self._size, len(vectors), dtype=torch.float64, device=self._space.device)
        for rows, where in self._filled():
            sums[where] = self._space.partial_products(rows, vectors)
        return self._space.total(sums)

    def subtract(self, coefficients: Tensor, vectors: Tensor, *, start: int = 0) -> None:
        """Take from vectors: [m, length] the basis times coefficients: [len(self), m], the rows before ``start`` 0."""
        for rows, where in self._filled(start):
            self._space.subtract(coefficients[where], rows, vectors)

    def dots(self, vector: Tensor, *, start: int) -> Tensor:
        """Inner products of vector: [length] with the basis from ``start`` on, last with itself; one reduction.

        To float32 rounding of the norms, in the time that it takes to read the vectors.
        """
        x = vector[None]
        parts = [*(rows for rows, _ in self._filled(start)), x]
        return self._space.total(torch.cat([self._space.partial_products(rows, x)[:, 0] for rows in parts]))

    def combine(self, coefficients: Tensor) -> Tensor:
        """The vectors with coefficients: [len(self), k] in this basis, as columns [length, k]."""
        space = self._space
        out = torch.zeros(coefficients.shape[1], space.length, dtype=space.dtype, device=space.device)
        self.subtract(-coefficients, out)
        return out.t()

    def compress(self, coefficients: Tensor) -> None:
        """Become the vectors with orthonormal columns coefficients: [len(self), k], k of them, in float64 in place."""
        weights = coefficients.t().to(self._space.device)
        entries = DOUBLES // self.ROWS
        part, new = (self._space.doubles(rows, entries) for rows in (self._size, len(weights)))
        for block, size in self._space.blocks(entries):
            for rows, where in self._filled():
                part[where, :size] = rows[:, block]
            torch.mm(weights, part[:, :size], out=new[:, :size])
            for some, rows in zip(new[:, :size].split(self.ROWS), self._storage, strict=False):
                rows[: len(some), block] = some
        self._size = len(weights)

    def _filled(self, first: int = 0) -> Iterator[tuple[Tensor, slice]]:
        """The rows in use from ``first`` on, with the positions in the basis that they hold."""
        for start in range(first - first % self.ROWS, self._size, self.ROWS):
            used = self._storage[start // self.ROWS][: self._size - start]
            skipped = max(first - start, 0)
            yield used[skipped:], slice(start + skipped, start + len(used))
