"""The space of vectors that are cut into one slice per rank."""

from __future__ import annotations

import torch
from torch import Tensor

from alternet.analysis.distributed.ranks import Ranks
from alternet.analysis.solvers.vectors import VectorSpace


class ShardedSpace(VectorSpace):
    """Vectors [n] of which rank r holds the entries from r·⌈n / ranks⌉ on, ⌈n / ranks⌉ of them where there are as many.

    Solvers work in it as in any ``VectorSpace``. Their bases therefore need an equal share of memory on every rank, and
    their scalars are the same bits everywhere, so that all ranks take the same steps.
    """

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device, ranks: Ranks) -> None:
        self.ranks, self._each = ranks, -(-n // ranks.size)
        start = min(ranks.rank * self._each, n)
        super().__init__(n, dtype, device, slice(start, min(start + self._each, n)))

    def total(self, partial: Tensor) -> Tensor:
        """The sum over all ranks. Collective."""
        return self.ranks.sum(partial)

    def agreed(self, values: Tensor) -> Tensor:
        """Those of the first rank. Collective."""
        return self.ranks.broadcast(values.to(self.device)).to(values.device)

    def part(self, whole: Tensor) -> Tensor:
        """This rank's slice [length] of whole: [n], a view."""
        return whole[self.here]

    def gather(self, part: Tensor) -> Tensor:
        """The whole vector [n] from every rank's slice [length]. Collective."""
        return self.ranks.gather(_padded(part, self._each)).view(-1)[: self.n]

    def reduce_scatter(self, whole: Tensor) -> Tensor:
        """This rank's slice [length] of the sum over ranks of whole: [n]. Collective."""
        padded = _padded(whole, self._each * self.ranks.size)
        return self.ranks.reduce_scatter(padded.view(self.ranks.size, self._each))[: self.length]


def _padded(vector: Tensor, length: int) -> Tensor:
    """vector: [n] with zeros behind it, [length]: collectives want equal parts. No copy where it has that length."""
    return torch.nn.functional.pad(vector, (0, length - len(vector))) if len(vector) < length else vector
