"""Fair signs from a counter: the same on every device, whatever else is drawn, and however images are batched."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio, an odd number, as an int64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def random_signs(seed: int, first: int, images: int, entries: int, device: torch.device) -> Tensor:
    """[images, entries] bool, True for +1; row i depends on ``seed`` and ``first + i`` alone.

    Entry j is bit j mod 64 of word j div 64 of a SplitMix64 sequence that starts at a hash of seed and image.

    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    key = _mix(torch.tensor(seed, dtype=torch.int64, device=device) + GOLDEN)
    start = _mix(key + GOLDEN * (first + torch.arange(images, dtype=torch.int64, device=device)))
    words = torch.arange(1, (entries + 63) // 64 + 1, dtype=torch.int64, device=device)
    hashes = _mix(start[:, None] + GOLDEN * words)
    places = torch.arange(8, dtype=torch.uint8, device=device)
    bits = hashes.view(torch.uint8)[..., None] >> places & 1  # bytes of a word come lowest first
    return bits.flatten(1)[:, :entries].bool()


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, modulo 2^64."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shifted(x, shift)) * multiplier
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right; that of int64 is arithmetic."""
    return x >> places & (1 << 64 - places) - 1
