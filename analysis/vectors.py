"""Inner products and orthonormal bases of very long vectors.

On a CPU float32 ``norm``, ``dot`` and ``mv`` add millions of terms into a few float32 lanes. Where the entries are
concentrated, as those of Hessian eigenvectors are, that is off by up to 2.5e-3, always towards zero, and eigenvalues
and orthogonality inherit it. Here only blocks are added in float32, and the blocks in float64: the time is the same,
and what is left is float32 rounding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of x: [n] and y: [n] in float64 arithmetic, as a float64 tensor without axes on their device."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for block in _blocks(x):
        total += torch.dot(x[block].double(), y[block].double())
    return total


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of x: [n] in float64 arithmetic, as a float64 tensor without axes on its device."""
    return dot(x, x).sqrt()


class Basis:
    """A growing set of orthonormal vectors of length n, in one dtype on one device.

    They are kept as rows in tensors of ``ROWS`` vectors each: large enough for matrix-vector products to run at the
    memory's speed, small enough that growing copies nothing and wastes little.
    """

    ROWS = 16

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self._n, self._dtype, self._device = n, dtype, device
        self._storage: list[Tensor] = []  # each [ROWS, n]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, vector: Tensor) -> None:
        """Add vector: [n], which the caller has orthogonalised and normalised."""
        if self._size == self.ROWS * len(self._storage):
            self._storage.append(torch.empty(self.ROWS, self._n, dtype=self._dtype, device=self._device))
        self._storage[-1][self._size % self.ROWS] = vector
        self._size += 1

    def vectors(self) -> Tensor:
        """A copy of all vectors as columns, [n, len(self)]."""
        return torch.cat([rows for rows, _ in self._filled()]).t()

    def orthogonalize(self, vector: Tensor) -> Tensor:
        """Make vector: [n] orthogonal to the basis, in place; returns the coefficients [len(self)] taken out, float64.

        One pass of classical Gram-Schmidt: what is left may overlap with the basis by rounding times the cancellation,
        that is the norm of vector before over after.
        """
        coefficients = self._project(vector)
        self._subtract(coefficients, vector)
        return coefficients

    def combine(self, coefficients: Tensor) -> Tensor:
        """The vectors with coefficients: [len(self), k] in this basis, as columns [n, k]."""
        out = torch.zeros(coefficients.shape[1], self._n, dtype=self._dtype, device=self._device)
        for row, column in zip(out, coefficients.t(), strict=True):
            self._subtract(-column.to(self._device), row)
        return out.t()

    def _filled(self) -> Iterator[tuple[Tensor, slice]]:
        """The rows in use, with the positions in the basis that they hold."""
        for start, rows in zip(range(0, self._size, self.ROWS), self._storage, strict=True):
            used = rows[: self._size - start]
            yield used, slice(start, start + len(used))

    def _project(self, vector: Tensor) -> Tensor:
        """Coefficients [len(self)] of vector: [n], float64 over blocks."""
        coefficients = torch.zeros(self._size, dtype=torch.float64, device=self._device)
        for rows, where in self._filled():
            for block in _blocks(vector):
                coefficients[where] += torch.mv(rows[:, block], vector[block])
        return coefficients

    def _subtract(self, coefficients: Tensor, vector: Tensor) -> None:
        for rows, where in self._filled():
            vector.addmv_(rows.t(), coefficients[where].to(self._dtype), alpha=-1)


def _blocks(x: Tensor) -> Iterator[slice]:
    # On a CPU 2^14 concentrated entries add up to within 4e-7 in float32 (2^16: 1.2e-6, 2^12: 2e-7) while mv keeps two
    # thirds of its speed. A GPU adds in trees, so that only the number of kernels matters.
    size = 1 << 14 if x.device.type == "cpu" else 1 << 20
    for start in range(0, len(x), size):
        yield slice(start, start + size)
