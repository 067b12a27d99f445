"""The mean spectrum of more maps than fit in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .operator import mean_spectrum
from .spectrum import Spectrum


class SpectrumAccumulator:
    """Means over all images and channels that ``update`` was given: float64 sums on the CPU, without derivatives.

    >>> seen = SpectrumAccumulator()
    >>> for x in batches:
    ...     seen.update(x)
    >>> frequency, log_amplitude = seen.result().half_diagonal()

    Every map weighs the same. The result does not depend on how maps are cut into batches, but for the rounding of
    float64 sums; accumulators of several workers add up by ``merge``.

    Args:
        plane: also the whole two-dimensional spectrum, which takes a Fourier transform of every map.
    """

    def __init__(self, *, plane: bool = False) -> None:
        self.plane = plane
        self.size: tuple[int, int] | None = None
        self.maps = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, x: Tensor, grid: tuple[int, int] | None = None) -> None:
        """Add the maps of ``x``, which comes as in ``feature_spectrum``.

        Raises:
            TypeError, ValueError: as ``feature_spectrum`` does; maps of another size than before.
        """
        with torch.no_grad():
            mean = mean_spectrum(x, grid, plane=self.plane, per_image=False)
        means = {"log_amplitude": mean.log_amplitude, "variance": mean.variance}
        if mean.plane is not None:
            means["plane"] = mean.plane
        self._add(mean.size, mean.maps, {name: values.cpu() * mean.maps for name, values in means.items()})

    def merge(self, other: SpectrumAccumulator) -> None:
        """Add what ``other`` has seen, and leave it as it is.

        Raises:
            ValueError: its maps are of another size, or one of the two has the plane and the other has not.
        """
        if self.plane != other.plane:
            raise ValueError(f"other: plane is {other.plane}, expected {self.plane}")
        if other.size is not None:
            self._add(other.size, other.maps, other._sums)

    def result(self) -> Spectrum:
        """The means over all maps until now.

        Raises:
            ValueError: there were none.
        """
        if self.size is None:
            raise ValueError("result: there is none before the first update")
        return Spectrum(self.size, self.maps, **{name: sum / self.maps for name, sum in self._sums.items()})

    def state(self) -> dict[str, Any]:
        """What ``from_state`` makes an equal accumulator of, in JSON: the variance that a pixel lacks is null."""
        sums: dict[str, Any] = {name: sum.tolist() for name, sum in self._sums.items()}
        if self.size == (1, 1):
            sums["variance"] = None
        return {"plane": self.plane, "size": self.size, "maps": self.maps, "sums": sums}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SpectrumAccumulator:
        """The accumulator whose ``state`` was taken; KeyError for anything else."""
        self = cls(plane=state["plane"])
        self.size = None if state["size"] is None else (state["size"][0], state["size"][1])
        self.maps = state["maps"]
        for name, sum in state["sums"].items():
            self._sums[name] = torch.tensor(torch.nan if sum is None else sum, dtype=torch.float64)
        return self

    def _add(self, size: tuple[int, int], maps: int, sums: dict[str, Tensor]) -> None:
        if self.size not in (None, size):
            raise ValueError(f"x: maps of {size[0]} x {size[1]}, expected {self.size} as before")
        self.size = size
        self.maps += maps
        self._sums = {name: sum + self._sums[name] if self._sums else sum for name, sum in sums.items()}
