"""What a spectrum of feature maps consists of: its frequencies, and its mean over however many maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Axis = Literal["exact", "paper"]
OFFSET = 1e-6  # keeps the logarithm of an amplitude of 0 finite; as in the authors' code


def frequencies(height: int, width: int, axis: Axis = "exact") -> tuple[Tensor, Tensor]:
    """Frequencies [K] on the half-diagonal of a map, as computed and as labelled, in units of π; float64.

    With n the longer side, ``"exact"`` has 2k/n for k = 0 … floor(n/2): up to 1 for even n, up to 1 - 1/n for odd n.
    ``"paper"`` has the authors' k = 0 … ceil(n/2) - 1, labelled evenly from 0 to 1 as in their figure (so that what is
    called 1.0π is the last frequency below it).

    Raises:
        ValueError: ``axis`` is neither.
    """
    if axis not in get_args(Axis):
        raise ValueError(f"axis: got {axis!r}, expected one of {get_args(Axis)}")
    longer = max(height, width)
    if axis == "exact":
        exact = 2 * torch.arange(longer // 2 + 1, dtype=torch.float64) / longer
        return exact, exact
    count = -(-longer // 2)
    return 2 * torch.arange(count, dtype=torch.float64) / longer, torch.linspace(0, 1, count, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Means over feature maps [H, W], float64; [...] is [B] for single images and nothing for all of them.

    size: (H, W).
    maps: how many each mean is taken over.
    log_amplitude: [..., K], on the half-diagonal, at the frequencies of the exact axis.
    variance: [...], unbiased, over the pixels of a map; NaN for maps of one pixel, which have none.
    plane: [..., H, W], of the whole transform, in the order of ``torch.fft.fft2`` (``torch.fft.fftshift`` puts
        frequency 0 in the middle); ``None`` where it was not asked for.
    """

    size: tuple[int, int]
    maps: int
    log_amplitude: Tensor
    variance: Tensor
    plane: Tensor | None = None

    def half_diagonal(self, axis: Axis = "exact") -> tuple[Tensor, Tensor]:
        """Frequencies [K] as labelled, in units of π, and log amplitudes [..., K]; the axes as in ``frequencies``.

        Raises:
            ValueError: ``axis`` is neither ``"exact"`` nor ``"paper"``.
        """
        labels = frequencies(*self.size, axis)[1].to(self.log_amplitude.device)
        return labels, self.log_amplitude[..., : len(labels)]

    def radial(self) -> tuple[Tensor, Tensor]:
        """Frequencies [K] of the exact axis, in units of π, and log amplitudes [..., K] averaged over rings.

        With n the longer side, ring k holds the frequencies (f_h, f_w) whose radius, the root of f_h² + f_w², is
        nearest to 2k/n; the corners beyond the last ring are left out.

        Raises:
            ValueError: the spectrum has no ``plane``.
        """
        if self.plane is None:
            raise ValueError("plane: got None; a radial average needs feature_spectrum(..., plane=True)")
        height, width = self.size
        labels = frequencies(height, width)[0].to(self.plane.device)
        axes = (2 * torch.fft.fftfreq(side, dtype=torch.float64, device=self.plane.device) for side in self.size)
        rings = (torch.hypot(*torch.meshgrid(*axes, indexing="ij")) * max(self.size) / 2).round().long().flatten()
        inside = rings < len(labels)
        members = torch.zeros(len(labels), dtype=torch.float64, device=self.plane.device)
        members.index_add_(0, rings[inside], torch.ones_like(rings[inside], dtype=torch.float64))
        sums = torch.zeros_like(self.plane[..., 0, :1]).repeat_interleave(len(labels), -1)
        return labels, sums.index_add(-1, rings[inside], self.plane.flatten(-2)[..., inside]) / members
