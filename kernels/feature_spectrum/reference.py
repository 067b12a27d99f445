"""The specification, in plain differentiable PyTorch; any device, float16 and bfloat16 computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .spectrum import OFFSET


def forward(maps: Tensor, *, per_image: bool) -> tuple[Tensor, Tensor]:
    """maps: [B, C, H, W] -> float64 means over channels: log amplitude [B, K] and variance [B]; else over B too."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    axes = (1,) if per_image else (0, 1)
    return log_amplitudes(maps).mean(axes, dtype=torch.float64), variances(maps).mean(axes, dtype=torch.float64)


def log_amplitudes(maps: Tensor) -> Tensor:
    """maps: [B, C, H, W] -> log(|F(f, f)| + 1e-6) [B, C, K] at the frequencies of the exact axis."""
    height, width = maps.shape[-2:]
    # Overlap-adding the rows, each one column further right, is what fold does with blocks of one column.
    columns = F.fold(maps.flatten(1, 2), output_size=(1, height + width - 1), kernel_size=(1, height))
    # The waves have the longer side as a period, so that what lies beyond it may be added to what lies before.
    before, beyond = columns.squeeze(2).split([max(height, width), min(height, width) - 1], dim=-1)
    sums = before + F.pad(beyond, (0, before.shape[-1] - beyond.shape[-1]))
    return torch.log(torch.fft.rfft(sums).abs() + OFFSET)


def variances(maps: Tensor) -> Tensor:
    """maps: [B, C, H, W] -> unbiased variance over (H, W) [B, C]; of a 1x1 map, which has none, NaN."""
    pixels = maps.shape[-2:].numel()
    if pixels == 1:
        return maps.new_full(maps.shape[:2], torch.nan)
    maps = maps.flatten(2)
    # Two passes, which are as safe as torch.var's one (Welford's) and on a CPU 2 to 15 times faster.
    return (maps - maps.mean(2, keepdim=True)).square().sum(2) / (pixels - 1)
