"""The whole two-dimensional transform, by PyTorch's FFT: a library beats own code there."""

from __future__ import annotations

import torch
from torch import Tensor

from .spectrum import OFFSET

CHUNK = 1 << 18  # entries that are transformed at a time: they and their transform stay in a second-level cache


def log_amplitude_plane(maps: Tensor, *, per_image: bool) -> Tensor:
    """maps: [B, C, H, W] -> log(|F| + 1e-6), fft2 order: float64 mean over channels [B, H, W], else over B too."""
    step = max(1, CHUNK // max(1, maps[0].numel()))
    half = torch.cat([_half_plane(part) for part in maps.split(step)])
    return _whole_plane(half if per_image else half.mean(0), maps.shape[-1])


def _half_plane(maps: Tensor) -> Tensor:
    maps = maps if maps.dtype == torch.float64 else maps.float()
    return torch.fft.rfft2(maps).abs().add(OFFSET).log().mean(1, dtype=torch.float64)


def _whole_plane(half: Tensor, width: int) -> Tensor:
    """The columns that rfft2 leaves out: |F(-h, -w)| = |F(h, w)| for real maps."""
    mirrored = half[..., 1 : (width + 1) // 2].flip(-1).flip(-2).roll(1, -2)
    return torch.cat([half, mirrored], -1)
