"""How far a Lanczos basis has lost its orthogonality, without looking at it: partial reorthogonalisation.

Simon 1984. What H Q = Q T + Rᵀ E says of H's symmetry lets rounding errors be followed from step to step. A basis whose
vectors overlap by less than the root of the dtype's epsilon has the Ritz values of an orthonormal one to that epsilon.
"""

from __future__ import annotations

import torch
from torch import Tensor

MEASURED = 4  # steps at first, against few vectors: they show how exact products are
SAFETY = 3.0  # overlaps as predicted over those found, where both are known
UNMEASURED = 16  # steps in a row at most: an operator that is less symmetric than it seemed must be found out


class Orthogonality:
    """Estimates of the overlaps QᵀQ of Lanczos vectors, with the next one, and whether they call for a measurement.

    ``allowed``: vectors may overlap by as much; 0 has every step measured.
    """

    def __init__(self, allowed: float, epsilon: float) -> None:
        self.allowed = allowed
        self._epsilon = epsilon
        self._noise = 0.0  # what a product adds to overlaps, before the next vector is normalised
        self._share = 1.0  # of the noise, to which predictions come true
        self._measured = 0  # so many steps in a row, up to now
        self._owed = MEASURED  # so many more steps to measure
        self._unmeasured = 0  # so many steps in a row, up to now
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    def loss(self, count: int) -> float:
        """How far the norm of a combination of the first ``count`` vectors may be from that of its coefficients."""
        return float(torch.linalg.norm(self._gram[:count, :count] - torch.eye(count, dtype=torch.float64)))

    def begin(self, count: int) -> None:
        """A random vector behind ``count`` others has been made orthogonal to them."""
        self._append(torch.full((count,), self._epsilon, dtype=torch.float64))

    def restart(self, coordinates: Tensor) -> None:
        """The basis became the combinations coordinates: [m, l] of itself; the next vector is the same.

        From here every step is measured: what one restart after the other adds to bounds must be rounding alone.
        """
        self.allowed = 0.0
        whole = torch.block_diag(coordinates, torch.eye(len(self._gram) - len(coordinates), dtype=torch.float64))
        self._gram = whole.t() @ self._gram @ whole

    def asymmetric(self, size: float) -> None:
        """A product of the operator had as much along an earlier vector that symmetry does not explain."""
        self._noise = max(self._noise, size)

    def predict(self, projection: Tensor) -> Tensor:
        """Overlaps [m] with Q of what T = ``projection``: [m, m] leaves of a product.

        For qᵢᵀ H qⱼ both columns of H Q = Q T + Rᵀ E can be had: column m - 1 of T W - W T is what qᵢ and the
        residual have in common, W = QᵀQ. Rounding adds to it where it does not take away.
        """
        drift = projection @ self._gram[:, -1] - self._gram @ projection[:, -1]
        drift[-2:] = 0  # orthogonal by construction
        floor = self._epsilon * float(projection[:, -1].abs().max()) + self._share * self._noise
        return drift + torch.copysign(torch.tensor(floor, dtype=torch.float64), drift)

    def due(self, overlaps: Tensor, length: float) -> bool:
        """Whether a residual of this norm that may have these overlaps with Q must be made orthogonal to all of it."""
        small = float(overlaps.abs().max()) < self.allowed * length  # False for NaN, and where nothing is left
        return self._owed > 0 or self._unmeasured >= UNMEASURED or not small

    def trust(self, overlaps: Tensor, length: float) -> None:
        """The next vector is the residual of this norm as it is, with overlaps as predicted."""
        self._unmeasured += 1
        self._measured = 0
        self._append(overlaps / length)

    def measured(self, predicted: Tensor, found: Tensor, length: float) -> bool:
        """The residual of this norm has the overlaps ``found``: [m]; True where they must be taken out."""
        worst, expected = float(found.abs().max()), float(predicted.abs().max())
        small = worst < 0.01 * self.allowed * length and self._owed != 1  # the last one owed ends a loss
        if self._owed:
            self._owed -= 1
            if self._measured >= 2:  # a vector inherits from the two before: these had nothing to give
                self._noise = max(self._noise, worst)
        elif worst > SAFETY * expected:  # the noise is not what it was thought to be: three more show it
            self._owed, self._share = 3, 1.0
        else:
            self._owed = int(worst > 0.1 * self.allowed * length)  # two clean vectors end a loss, one does not
            if expected > 0:  # a product of zeros predicts nothing
                self._rescale(min(SAFETY * worst / expected, 1.0))
        self._measured += 1
        self._unmeasured = 0
        self._append(found / length if small else torch.full_like(found, self._epsilon))
        return not small

    def leaves(self, removed: float, length: float) -> bool:
        """Whether overlaps of norm ``removed`` taken out of a residual of norm ``length`` leave more than rounding.

        They leave what the vectors have in common, of which a far smaller residual would make much.
        """
        return self.loss(len(self._gram) - 1) * removed > 10 * self._epsilon * (length - removed)

    def _rescale(self, factor: float) -> None:
        """Predictions so far, and of what is to come, were too large by as much."""
        self._share *= factor
        self._gram = factor * self._gram + (1 - factor) * torch.eye(len(self._gram), dtype=torch.float64)

    def _append(self, overlaps: Tensor) -> None:
        count = len(overlaps)
        gram = torch.eye(count + 1, dtype=torch.float64)
        gram[:count, :count] = self._gram[:count, :count]
        gram[:count, count] = gram[count, :count] = overlaps
        self._gram = gram
