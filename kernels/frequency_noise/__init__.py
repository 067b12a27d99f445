"""Band-limited noise, for the paper's figure 5: how robust a network is to noise of one frequency.

    x + Re F⁻¹(M ⊙ F(ε·sign(n))),    M(f_h, f_w) = 1 where |max(|f_h|, |f_w|) - f| <= s, else 0

with n Gaussian, f the centre frequency of the band and s its half-width; sign(n) is a fair sign. M is a square ring,
symmetric, so that the noise is real. Of the ε² that a pixel of ε·sign(n) has, the band keeps the share of the ring in
the plane, which grows with f: a fall in accuracy over f mixes the two. ``equalize_energy`` takes the area out.

One backend, plain PyTorch: of the 90 ms for 32 images of 3 x 224 x 224 on two cores the Fourier transforms take 45 to
65, the random signs 3, and the rest is reading and writing memory. The mask is a difference of two separable low-pass
filters; as four products with [H, H] and [W, W] matrices they were no faster at 32 x 32 and slower at 224 x 224.

Source: Park & Kim, ICLR 2022 (arXiv 2202.06709), figure 5 and the authors' public code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .random_signs import random_signs

__all__ = ["PAPER_HALF_WIDTH", "band", "frequency_noise"]

PAPER_HALF_WIDTH = 0.2 / math.pi  # 0.2 radian a pixel, in units of π
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def frequency_noise(
    x: Tensor,
    frequency: float,
    *,
    magnitude: float,
    half_width: float = PAPER_HALF_WIDTH,
    equalize_energy: bool = False,
    seed: int,
    first_image: int = 0,
) -> Tensor:
    """``x`` plus noise whose frequencies are those of one band. The derivative in ``x`` is the identity.

    Image i gets noise that depends on ``seed`` and ``first_image + i`` alone: give every batch the number of images
    before it, and the noise does not depend on how images are batched. It is the same on every device, but for
    rounding.

    Args:
        x: images [B, C, H, W], floating point.
        frequency: centre of the band, 0 to 1, in units of π per pixel.
        magnitude: ε, in the units of ``x``.
        half_width: of the band, in units of π per pixel; by default the authors' 0.2 radian.
        equalize_energy: scale the noise of every image to the mean square ε², which that of all frequencies has.
        seed: any integer of 64 bits.
        first_image: the number of the first image, not negative.

    Returns:
        [B, C, H, W] in x's dtype. The noise of float16 and bfloat16 images is made in float32.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.
        ValueError: shapes or numbers do not fit, or maps of this size have no frequency in the band.
    """
    _check(x, frequency, magnitude, half_width, seed, first_image)
    height, width = x.shape[-2:]
    inside = band(height, width, frequency, half_width)
    if not inside.any():
        raise ValueError(f"frequency: no frequency of a {height} x {width} map is within {half_width} of {frequency}")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    positive = random_signs(seed, first_image, len(x), x[:1].numel(), x.device).view(x.shape)
    signs = positive.to(dtype).mul_(2).sub_(1)
    noise = torch.fft.irfft2(torch.fft.rfft2(signs) * inside.to(x.device), s=(height, width))
    scale = noise.square().mean((1, 2, 3), keepdim=True).rsqrt() if equalize_energy else 1.0
    return x + (noise * scale * magnitude).to(x.dtype)


def band(height: int, width: int, frequency: float, half_width: float) -> Tensor:
    """M [H, W // 2 + 1], bool, in the order of ``torch.fft.rfft2``."""
    rows = 2 * torch.fft.fftfreq(height, dtype=torch.float64).abs()
    columns = 2 * torch.fft.rfftfreq(width, dtype=torch.float64)
    off_centre = (torch.maximum(rows[:, None], columns) - frequency).abs()
    return off_centre <= half_width + 1e-12  # so that 0.8 is within 0.2 of 0.6, as it is in decimals


def _check(x: Tensor, frequency: float, magnitude: float, half_width: float, seed: int, first_image: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"x: dtype {x.dtype}, expected one of float16, bfloat16, float32, float64")
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected images [B, C, H, W]")
    if not 0 <= frequency <= 1:
        raise ValueError(f"frequency: got {frequency}, expected 0 to 1, in units of π per pixel")
    if not (magnitude >= 0 and math.isfinite(magnitude)):
        raise ValueError(f"magnitude: got {magnitude}, expected a number that is not negative")
    if not half_width >= 0:
        raise ValueError(f"half_width: got {half_width}, expected a number that is not negative")
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed: got {seed}, expected an integer of 64 bits")
    if first_image < 0:
        raise ValueError(f"first_image: got {first_image}, expected a number that is not negative")
