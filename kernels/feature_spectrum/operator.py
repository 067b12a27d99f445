"""The op of the dispatcher, and the checks of what comes in.

There are no derivative kernels: spectra are looked at, not trained on. Where a derivative is asked for all the same, in
whatever mode, the reference runs in the kernel's place and PyTorch differentiates it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends, dispatcher
from ..checks import check_floating, pair
from . import reference
from .plane import log_amplitude_plane
from .spectrum import Spectrum


def mean_spectrum(x: Tensor, grid: tuple[int, int] | None, *, plane: bool, per_image: bool) -> Spectrum:
    """``feature_spectrum``, which says what comes in."""
    maps = _as_maps(x, grid)
    images, channels, height, width = maps.shape
    log_amplitude, variance = _op(maps, per_image, backends.chosen())
    whole = log_amplitude_plane(maps, per_image=per_image) if plane else None
    count = channels if per_image else images * channels
    return Spectrum((height, width), count, log_amplitude, variance, whole)


def _as_maps(x: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """[B, C, H, W], a view."""
    check_floating("x", x)
    if x.dim() != (4 if grid is None else 3):
        expected = "maps [B, C, H, W] or, with a grid, tokens [B, N, C]"
        raise ValueError(f"x: shape {tuple(x.shape)}, expected {expected}")
    if x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)} has no entries")
    if grid is None:
        return x
    height, width = pair("grid", grid)
    if height * width != x.shape[1]:
        tokens = f"{x.shape[1]} tokens, expected {height} x {width} (class and register tokens are to be dropped)"
        raise ValueError(f"grid: got {(height, width)} for {tokens}")
    return x.transpose(1, 2).unflatten(2, (height, width))


def _kernel(maps: Tensor, per_image: bool, backend: str) -> tuple[Tensor, Tensor]:
    module = backends.implementation("feature_spectrum", backends.resolve(backend, maps))
    return module.forward(maps, per_image=per_image)


def _fake(maps: Tensor, per_image: bool, backend: str) -> tuple[Tensor, Tensor]:
    lead = (maps.shape[0],) if per_image else ()
    count = max(maps.shape[2:]) // 2 + 1
    return maps.new_empty((*lead, count), dtype=torch.float64), maps.new_empty(lead, dtype=torch.float64)


def _vmap(info, in_dims: tuple, maps: Tensor, per_image: bool, backend: str) -> tuple[tuple, tuple[int, int]]:
    maps = maps.movedim(in_dims[0], 0)
    results = (result.unflatten(0, maps.shape[:2]) for result in _op(maps.flatten(0, 1), True, backend))
    return tuple(result if per_image else result.mean(1) for result in results), (0, 0)


_op = dispatcher.define(
    "feature_spectrum(Tensor maps, bool per_image, str backend) -> (Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    vmap=_vmap,
    rules=None,
    plain=lambda maps, per_image, backend: reference.forward(maps, per_image=per_image),
)
