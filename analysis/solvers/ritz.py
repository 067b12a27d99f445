"""Which Ritz values are wanted, and how near eigenvalues are to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 10  # times the dtype's epsilon and the largest magnitude: what a product's own rounding may add to a bound


@dataclass(frozen=True)
class Wanted:
    """``k`` values of a spectrum, by SciPy's names.

    "LM" those of largest magnitude, "LA" the algebraically largest, "SA" the algebraically smallest, "BE" half from
    either end, one more from the high end where k is odd.
    """

    which: str
    k: int

    @property
    def ends(self) -> list[tuple[str, int]]:
        """What is compared, and how many are wanted by it."""
        if self.which == "BE":
            return [("LA", self.k - self.k // 2), ("SA", self.k // 2)]
        return [(self.which, self.k)]

    def order(self, values: Tensor) -> Tensor:
        """Indices [m] of values: [m], the most wanted first; the first k are those that are wanted."""
        order = key(values, self.ends[0][0]).argsort(descending=True, stable=True)
        if len(self.ends) == 1:
            return order
        return torch.stack([order, order.flip(0)], dim=1).flatten()[: len(values)]  # both ends meet in the middle

    def chosen(self, values: Tensor) -> Tensor:
        """Indices [k] of the wanted ones: by falling magnitude, falling ("LA", "BE") or rising ("SA")."""
        first = self.order(values)[: self.k]
        return first[key(values[first], self.ends[0][0]).argsort(descending=True, stable=True)]

    def scales(self, values: Tensor) -> Tensor:
        """For each of values: [k], as ``chosen`` orders them, the largest magnitude at its end of the spectrum."""
        counts = [count for _, count in self.ends if count]
        if sum(counts) != len(values):  # not yet so many
            return values.abs().max().expand(len(values))
        return torch.cat([part.abs().max().expand(len(part)) for part in values.split(counts)])


def key(values: Tensor, which: str) -> Tensor:
    """What is large for the values that ``which``, but not "BE", wants."""
    return {"LM": values.abs, "LA": values.clone, "SA": values.neg}[which]()


def gap_bounds(values: Tensor, residuals: Tensor, index: Tensor) -> Tensor:
    """Kato-Temple bounds [k] of the Ritz values ``index``: [k] among all values: [m] with residuals: [m].

    |λ − θ| ≤ r² / gap where no other eigenvalue lies within the gap of θ (Temple 1928, Kato 1949; Parlett 1998,
    theorem 11.7.1); the residual where it is the smaller. The gap is to the nearest other Ritz value less its residual:
    right if that stands for the nearest other eigenvalue, so not where two eigenvalues are still seen as one.
    """
    apart = (values[index][:, None] - values).abs() - residuals
    apart[torch.arange(len(index)), index] = torch.inf
    gaps = apart.min(dim=1).values
    chosen = residuals[index]
    return torch.where(gaps > chosen, chosen.square() / gaps, chosen)


def rounding(values: Tensor, dtype: torch.dtype) -> float:
    """What rounding in ``dtype`` may add to the bounds of an operator with these Ritz values."""
    return ROUNDING * torch.finfo(dtype).eps * float(values.abs().max())
