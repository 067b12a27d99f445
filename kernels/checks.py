"""Checks of arguments that several public functions share: one clear error that names the argument."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(name: str, tensor: object) -> None:
    """``tensor`` is a tensor of one of ``DTYPES``.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: dtype {tensor.dtype}, expected one of float16, bfloat16, float32, float64")


def check_like(name: str, tensor: object, x: Tensor, shape: tuple[int, ...], x_name: str = "x") -> None:
    """``tensor`` is None, or goes with x: its dtype, its device, and this shape.

    Raises:
        TypeError: it is not a tensor of x's dtype.
        ValueError: the device or the shape is another.
    """
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {tensor.dtype}, expected {x_name}'s dtype {x.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: is on {tensor.device}, expected {x_name}'s device {x.device}")
    if tensor.shape != shape:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for this device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)  # meta: the question itself raises


def lowered_by_autocast(query: Tensor, *others: Tensor | None) -> tuple:
    """Under autocast attention runs in the lower precision, as PyTorch's own does."""
    if not isinstance(query, Tensor) or not autocasts(query.device):
        return query, *others
    dtype = torch.get_autocast_dtype(query.device.type)
    return tuple(_lowered(t, dtype) for t in (query, *others))


def _lowered(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.to(dtype)
    return tensor


def is_16_bit(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.dtype in (torch.float16, torch.bfloat16)


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, which every transform would see even where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def float32_where_mixed(x: Tensor, *others: Tensor | None) -> tuple:
    """16-bit x with float32 weights, as networks under autocast have it: all in float32, as PyTorch computes it."""
    if not is_16_bit(x) or not any(isinstance(t, Tensor) and t.dtype == torch.float32 for t in others):
        return x, *others
    return x.float(), *(None if t is None else t.float() for t in others)
