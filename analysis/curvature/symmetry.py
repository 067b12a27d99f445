"""Whether an operator is a fixed, symmetric matrix, as every eigensolver takes for granted."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alternet.analysis.solvers.operators import LinearOperator
from alternet.analysis.solvers.vectors import space_of


class AsymmetryError(ArithmeticError):
    """An operator that is not a fixed, symmetric matrix."""


@dataclass(frozen=True)
class Symmetry:
    """What three products with random vectors tell of a matrix H; both are rounding where all is well.

    asymmetry: |u·Hv − v·Hu| relative to the norms of Hu and Hv, about ‖H − Hᵀ‖ / ‖H‖ in the Frobenius norm.
    change: ‖Hv − Hv‖ / ‖Hv‖ of two products with one vector.
    """

    asymmetry: float
    change: float


def check_symmetry(op: LinearOperator, *, tolerance: float, seed: int = 0) -> Symmetry:
    """Three products, with vectors of standard normal entries.

    Raises:
        AsymmetryError: a figure is above ``tolerance``, or not finite.
    """
    space, generator = space_of(op), torch.Generator().manual_seed(seed)
    u, v = space.normal(generator), space.normal(generator)
    hv, hu, again = op @ v, op @ u, op @ v
    scale = max(float(space.norm(hu)), float(space.norm(hv))) or 1.0  # the zero matrix is symmetric
    asymmetry = float(abs(space.dot(u, hv) - space.dot(v, hu))) / scale
    found = Symmetry(asymmetry, float(space.norm(again - hv)) / scale)
    _check_change(found.change, "product", "products with one vector", tolerance=tolerance)
    if not found.asymmetry <= tolerance:
        raise AsymmetryError(
            f"u·Hv and v·Hu differ by {found.asymmetry:.1e} (tolerance {tolerance:.0e}): these are not the second "
            "derivatives of one scalar. An autograd.Function in the model or the loss whose derivatives are not of "
            "one function? Values that overflow?"
        )
    return found


def check_network(change: float, *, tolerance: float) -> None:
    """AsymmetryError if two runs of a network on the same images differ by more than ``tolerance`` or by NaN."""
    _check_change(change, "pass", "passes over the same images", tolerance=tolerance)


def _check_change(change: float, unit: str, both: str, *, tolerance: float) -> None:
    """AsymmetryError if ``both``, each a ``unit`` that should repeat, differ by more than ``tolerance`` or by NaN."""
    if not change <= tolerance:
        raise AsymmetryError(
            f"two {both} differ by {change:.1e} (tolerance {tolerance:.0e}): something changes from {unit} to {unit}. "
            "Random numbers that torch's, NumPy's and Python's seeds do not govern? State kept between calls "
            "outside of buffers? Weights that are being trained? Kernels that add in random order?"
        )
