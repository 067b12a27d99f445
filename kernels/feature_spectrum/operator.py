"""The op of the dispatcher, and the checks of what comes in.

There are no derivative kernels: spectra are looked at, not trained on. Where a derivative is asked for all the same, in
whatever mode, the reference runs in the kernel's place and PyTorch differentiates it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends, dispatcher
from . import reference
from .plane import log_amplitude_plane
from .spectrum import Spectrum

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def image_spectra(x: Tensor, grid: tuple[int, int] | None, *, plane: bool) -> Spectrum:
    """One spectrum for each image of ``x``, the mean over its channels; ``feature_spectrum`` says what comes in."""
    maps = _as_maps(x, grid)
    log_amplitude, variance = _op(maps, backends.chosen())
    whole = log_amplitude_plane(maps) if plane else None
    return Spectrum((maps.shape[2], maps.shape[3]), maps.shape[1], log_amplitude, variance, whole)


def _as_maps(x: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """[B, C, H, W], a view."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"x: dtype {x.dtype}, expected one of float16, bfloat16, float32, float64")
    if x.dim() != (4 if grid is None else 3):
        expected = "maps [B, C, H, W] or, with a grid, tokens [B, N, C]"
        raise ValueError(f"x: shape {tuple(x.shape)}, expected {expected}")
    if x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)} has no entries")
    if grid is None:
        return x
    height, width = grid
    if height < 1 or width < 1 or height * width != x.shape[1]:
        tokens = f"{x.shape[1]} tokens, expected {height} x {width} (class and register tokens are to be dropped)"
        raise ValueError(f"grid: got {(height, width)} for {tokens}")
    return x.transpose(1, 2).unflatten(2, (height, width))


def _kernel(maps: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    module = backends.implementation("feature_spectrum", backends.resolve(backend, maps))
    return module.forward(maps)


def _fake(maps: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    batch, count = maps.shape[0], max(maps.shape[2:]) // 2 + 1
    return maps.new_empty((batch, count), dtype=torch.float64), maps.new_empty(batch, dtype=torch.float64)


def _vmap(info, in_dims: tuple, maps: Tensor, backend: str) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    maps = maps.movedim(in_dims[0], 0)
    log_amplitude, variance = _op(maps.flatten(0, 1), backend)
    return (log_amplitude.unflatten(0, maps.shape[:2]), variance.unflatten(0, maps.shape[:2])), (0, 0)


_op = dispatcher.define(
    "feature_spectrum(Tensor maps, str backend) -> (Tensor, Tensor)",
    kernel=_kernel,
    fake=_fake,
    vmap=_vmap,
    rules=None,
    plain=lambda maps, backend: reference.forward(maps),
)
