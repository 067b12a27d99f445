"""Band-limited noise, for the paper's figure 5: how robust a network is to noise of one frequency.

    x + Re F⁻¹(M ⊙ F(ε·sign(n))),    M(f_h, f_w) = 1 where |max(|f_h|, |f_w|) - f| <= s, else 0

with n Gaussian, f the centre frequency of the band and s its half-width; sign(n) is a fair sign. M is a square ring,
symmetric, so that the noise is real. Of the ε² that a pixel of ε·sign(n) has, the band keeps the share of the ring in
the plane, which grows with f: a fall in accuracy over f mixes the two. ``equalize_energy`` takes the area out. Signs
that have nothing in the band (at f = 0 as many +1 as -1) cannot be scaled to any energy: then the image gets what the
first pixel of each channel alone, which has every frequency, leaves in the band.

One backend, plain PyTorch: of the 90 ms for 32 images of 3 x 224 x 224 on two cores the Fourier transforms take 45 to
65, the random signs 3, and the rest is reading and writing memory. The mask is a difference of two separable low-pass
filters; as four products with [H, H] and [W, W] matrices they were no faster at 32 x 32 and slower at 224 x 224.

Source: Park & Kim, ICLR 2022 (arXiv 2202.06709), figure 5 and the authors' public code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_floating, finite, integer, number
from .random_signs import random_signs

__all__ = ["PAPER_HALF_WIDTH", "band", "frequency_noise"]

PAPER_HALF_WIDTH = 0.2 / math.pi  # 0.2 radian a pixel, in units of π
_SLACK = 1e-12  # so that 0.8 is within 0.2 of 0.6, as it is in decimals


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
        TypeError: ``x`` is not a floating-point tensor, or a number is none.
        ValueError: shapes or numbers do not fit, or maps of this size have no frequency in the band.
    """
    seed, first_image = integer("seed", seed), integer("first_image", first_image)
    frequency, half_width = number("frequency", frequency), number("half_width", half_width)
    magnitude = finite("magnitude", magnitude, 0)
    _check(x, frequency, half_width, seed, first_image)
    height, width = x.shape[-2:]
    if min(_distance(height, frequency), _distance(width, frequency)) > half_width + _SLACK:
        raise ValueError(f"frequency: no frequency of a {height} x {width} map is within {half_width} of {frequency}")
    inside = band(height, width, frequency, half_width).to(x.device)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    positive = random_signs(seed, first_image, len(x), x[:1].numel(), x.device).view(x.shape)
    signs = positive.to(dtype).mul_(2).sub_(1)
    noise = torch.fft.irfft2(torch.fft.rfft2(signs) * inside, s=(height, width))
    if equalize_energy:
        noise = _equalized(noise, signs[..., :1, :1], inside)
    return x + (noise * magnitude).to(x.dtype)


def _equalized(noise: Tensor, first_signs: Tensor, inside: Tensor) -> Tensor:
    """The noise [B, C, H, W] with mean square 1 for every image; ``first_signs`` [B, C, 1, 1], of the first pixels."""
    height, width = noise.shape[-2:]
    one_pixel = torch.fft.irfft2(inside.to(noise.dtype), s=(height, width))
    energy, least = noise.square().mean((1, 2, 3), keepdim=True), one_pixel.square().mean()
    # one number that is not 0 of the transform of signs is seldom below 1, and has energy >= least / (C x ring)
    empty = energy < 1e-6 * least
    noise = torch.where(empty, first_signs * one_pixel, noise)
    return noise * torch.where(empty, least, energy).rsqrt()


def _distance(side: int, frequency: float) -> float:
    """From ``frequency`` to the nearest of 0, 2/side, 4/side … not above 1."""
    nearest = min(int(frequency * side / 2 + 0.5), side // 2)
    return abs(2 * nearest / side - frequency)


def band(height: int, width: int, frequency: float, half_width: float) -> Tensor:
    """M [H, W // 2 + 1], bool, in the order of ``torch.fft.rfft2``."""
    rows = 2 * torch.fft.fftfreq(height, dtype=torch.float64).abs()
    columns = 2 * torch.fft.rfftfreq(width, dtype=torch.float64)
    off_centre = (torch.maximum(rows[:, None], columns) - frequency).abs()
    return off_centre <= half_width + _SLACK


def _check(x: Tensor, frequency: float, half_width: float, seed: int, first_image: int) -> None:
    check_floating("x", x)
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected images [B, C, H, W]")
    if not 0 <= frequency <= 1:
        raise ValueError(f"frequency: got {frequency}, expected 0 to 1, in units of π per pixel")
    if not half_width >= 0:
        raise ValueError(f"half_width: got {half_width}, expected a number that is not negative")
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed: got {seed}, expected an integer of 64 bits")
    if first_image < 0:
        raise ValueError(f"first_image: got {first_image}, expected a number that is not negative")
