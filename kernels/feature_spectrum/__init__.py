"""The Fourier spectrum and the variance of feature maps, by one read of them.

For a map x [H, W] and a frequency f (in units of π per pixel) the half-diagonal of the two-dimensional transform is

    F(f, f) = Σ_{h,w} x[h, w] exp(-iπf(h + w)) = Σ_j d[j] exp(-iπfj),    d[j] = Σ_{h+w=j} x[h, w]

so that one read of the map gives its H + W - 1 anti-diagonal sums d, and these give the transform at any frequency, for
a map of any shape. On a map that is not square the "diagonal" therefore means equal frequencies per pixel in both
directions, and the frequencies are those of the longer side n (where a constant map has no amplitude but at 0): f =
2k/n, which is the bin [k, k] of ``torch.fft.fft2`` for a square map. At these, d may be wrapped to n sums.

Source: Park & Kim, ICLR 2022 (arXiv 2202.06709), figures 4 and 6, and the authors' public code.
"""

from __future__ import annotations

from torch import Tensor

from .accumulator import SpectrumAccumulator
from .operator import mean_spectrum
from .spectrum import Axis, Spectrum, frequencies

__all__ = ["Axis", "Spectrum", "SpectrumAccumulator", "feature_spectrum", "frequencies"]


def feature_spectrum(
    x: Tensor, grid: tuple[int, int] | None = None, *, plane: bool = False, per_image: bool = False
) -> Spectrum:
    """log(|F| + 1e-6) on the half-diagonal, and the variance, averaged over images and channels in float64.

    The kernels have no derivatives; where one is asked for the (slower) reference runs, which PyTorch differentiates.

    Args:
        x: feature maps [B, C, H, W] of any strides (``channels_last`` too), or tokens [B, N, C] without class and
            register tokens. Floating point; float16 and bfloat16 are computed in float32.
        grid: (H, W) of tokens, H·W = N.
        plane: also the whole two-dimensional spectrum, which takes a Fourier transform of every map; the radial
            average (``Spectrum.radial``) is made from it.
        per_image: average over channels only: every field has a leading axis [B].

    Returns:
        A ``Spectrum``; ``SpectrumAccumulator`` gives the same over many calls.

    Raises:
        TypeError: ``x`` is not a floating-point tensor, or ``grid`` is not a pair of integers.
        ValueError: its shape, or the grid, does not fit.
    """
    return mean_spectrum(x, grid, plane=plane, per_image=per_image)
