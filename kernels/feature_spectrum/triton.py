"""The half-diagonal and the variance on a GPU: one read of the maps in a Triton kernel, the rest on what it leaves.

Needs Triton, and a CUDA or ROCm device or Triton's interpreter (``TRITON_INTERPRET=1``, CPU tensors); importing this
file needs neither. The kernel gives the wrapped anti-diagonal sums, a row of each map; their transform, which is all
that is left, is PyTorch's FFT. float16, bfloat16 and float32, computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_launch import Config, launch, padded
from .spectrum import OFFSET

NUMBERS = 512  # of a tile: four a thread, so that the loads of many rows fit in registers
CHANNELS = 32  # of a tile where channels are contiguous: whole lines of memory


def forward(maps: Tensor, *, per_image: bool) -> tuple[Tensor, Tensor]:
    """maps: [B, C, H, W] -> float64 means over channels: log amplitude [B, K] and variance [B]; else over B too."""
    sums, shift, variance = _read(maps)
    pixels = maps.shape[2] * maps.shape[3]
    transform = torch.fft.rfft(sums)
    transform[..., 0] += shift * pixels
    log_amplitude = transform.abs().add_(OFFSET).log_()
    if pixels == 1:
        variance.fill_(torch.nan)
    axes = (1,) if per_image else (0, 1)
    return log_amplitude.mean(axes, dtype=torch.float64), variance.mean(axes, dtype=torch.float64)


def _read(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every map less its shift: wrapped anti-diagonal sums [B, C, n]; shift and variance [B, C]."""
    from .triton_kernel import feature_spectrum_kernel

    B, C, H, W = maps.shape
    n = max(H, W)
    config = configuration(n, interleaved=maps.stride(1) == 1)
    sums, shift, variance = (_new(maps, B, C, *rest) for rest in ((n,), (), ()))
    stride_b, stride_c, stride_h, stride_w = maps.stride()
    launch(
        feature_spectrum_kernel,
        B * -(-C // config.block_m),
        config,
        maps.device,
        maps_ptr=maps,
        sums_ptr=sums,
        shift_ptr=shift,
        variance_ptr=variance,
        stride_b=stride_b,
        stride_c=stride_c,
        stride_h=stride_h,
        stride_w=stride_w,
        C=C,
        H=H,
        W=W,
        n=n,
        BLOCK_C=config.block_m,
        BLOCK_N=config.block_n,
    )
    return sums, shift, variance


def configuration(n: int, *, interleaved: bool) -> Config:
    """Channels by anti-diagonals of a tile, and its warps."""
    columns = padded(n)
    channels = min(CHANNELS, max(1, NUMBERS // columns))
    if interleaved:
        channels = max(channels, min(CHANNELS, max(1, 8 * NUMBERS // columns)))
    return Config(channels, columns, min(16, max(4, channels * columns // 512)), 1)


def _new(maps: Tensor, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device=maps.device)
