"""The sums of an unfinished pass: in memory, and in a file that outlives the process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.features.taps import Tap
from alternet.analysis.files import written_whole


class Sums:
    """For every statistic and tap the float64 sum [K] over the images and channels seen so far."""

    def __init__(self) -> None:
        self.images = 0
        self.shapes: dict[str, tuple[int, ...]] = {}  # tap name -> (channels, height, width)
        self.totals: dict[tuple[int, str], np.ndarray] = {}  # (index of the statistic, tap name) -> [K]

    def note_shape(self, tap: Tap, maps: Tensor) -> None:
        """Remember the maps' [C, H, W] at a tap. Raises ValueError where it is not what it was before."""
        shape = tuple(maps.shape[1:])
        expected = self.shapes.setdefault(tap.name, shape)
        if shape != expected:
            raise ValueError(
                f"batches: expected images of one size, got maps of {shape} (channels, height, width) at {tap.name} "
                f"after maps of {expected}"
            )

    def add(self, statistic: int, tap: Tap, total: np.ndarray) -> None:
        key = (statistic, tap.name)
        self.totals[key] = self.totals[key] + total if key in self.totals else total

    def mean(self, statistic: int, tap: Tap) -> np.ndarray:
        """The mean [K] over images and channels."""
        return self.totals[statistic, tap.name] / (self.images * self.shapes[tap.name][0])


class Journal:
    """Keeps ``Sums`` in an npz file, with a fingerprint of what they are sums of. Without a path it does nothing."""

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = fingerprint
        self.done = 0
        self._data = hashlib.blake2b(digest_size=16)
        self._data_done = ""

    def restore(self, sums: Sums) -> int:
        """Fill ``sums`` from the file, if there is one; how many batches it holds."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                found = header["fingerprint"]
                sums.images = header["images"]
                sums.shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
                sums.totals = {(i, name): arrays[f"{i}:{name}"] for i, name in header["totals"]}
                self.done, self._data_done = header["done"], header["data"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"resume: {self.path} is not a file of sums that can be read: {error!r}") from error
        for what, expected in self.fingerprint.items():
            if found.get(what) != expected:
                raise ValueError(
                    f"resume: {self.path} belongs to other {what}: it holds {found.get(what)}, expected {expected}; "
                    "remove it to start again"
                )
        return self.done

    def note_data(self, images: Tensor, number: int) -> None:
        """Take in batch ``number`` (from 1). Raises ValueError where the file's batches turn out to be others."""
        if self.path is None:
            return
        self._data.update(_bytes(images))
        if number == self.done and self._data.hexdigest() != self._data_done:
            raise ValueError(
                f"resume: {self.path} holds sums over other data than the first {number} batches; "
                "remove it to start again"
            )

    def write(self, sums: Sums, done: int) -> None:
        """Put the sums over the first ``done`` batches in the file, in place of what it held."""
        if self.path is None:
            return
        header = {
            "fingerprint": self.fingerprint,
            "done": done,
            "data": self._data.hexdigest(),
            "images": sums.images,
            "shapes": sums.shapes,
            "totals": list(sums.totals),
        }
        totals = {f"{index}:{name}": total for (index, name), total in sums.totals.items()}
        with written_whole(self.path) as temporary:
            np.savez(temporary, header=np.array(json.dumps(header)), **totals)


def fingerprint(model: nn.Module, statistics: Sequence[object], taps: Sequence[Tap], batches: int) -> dict[str, Any]:
    """What sums depend on besides the images: equal fingerprints, equal sums."""
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(_bytes(tensor))
    return {
        "weights": weights.hexdigest(),
        "statistics": [repr(statistic) for statistic in statistics],
        "taps": [dataclasses.asdict(tap) for tap in taps],
        "batches": batches,
    }


def _bytes(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor of any dtype, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
