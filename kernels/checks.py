"""Checks of arguments that several public functions share: one clear error that names the argument."""

from __future__ import annotations

import math
import operator
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(name: str, tensor: object) -> None:
    """``tensor`` is a dense tensor of one of ``DTYPES``.

    Raises:
        TypeError: it is not.
    """
    tensor = _dense(name, tensor)
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
    tensor = _dense(name, tensor)
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {tensor.dtype}, expected {x_name}'s dtype {x.dtype}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: is on {tensor.device}, expected {x_name}'s device {x.device}")
    if tensor.shape != shape:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def _dense(name: str, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: layout {tensor.layout}, expected a dense tensor, torch.strided")
    return tensor


def number(name: str, value: Any) -> float:
    """``value``, a number of Python or NumPy, or a tensor of one number without a derivative.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, Tensor):
        if value.requires_grad or forward_ad.unpack_dual(value).tangent is not None:
            raise TypeError(f"{name}: expected a number, got a tensor with a derivative, which {name} does not have")
        if value.dim() == 0:
            return float(value)
    if not isinstance(value, (Real, torch.SymInt, torch.SymFloat)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def finite(name: str, value: Any, least: float = -math.inf) -> float:
    """``number(name, value)``, finite and not below ``least``.

    Raises:
        TypeError: it is not a number.
        ValueError: it is infinite, not a number, or too small.
    """
    given = number(name, value)
    if not (-math.inf < given < math.inf and given >= least):
        expected = "a finite number" if least == -math.inf else f"a finite number, at least {least}"
        raise ValueError(f"{name}: got {given}, expected {expected}")
    return given


def integer(name: str, value: Any) -> int:
    """``value``, of whatever type that stands for an integer, but no bool.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value  # type: ignore[return-value]  # as it is: its index would make a SymInt a constant
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)
    raise TypeError(f"{name}: expected an integer, got {value!r}")


def pair(name: str, value: Any, least: int = 1, *, or_one: bool = False) -> tuple[int, int]:
    """``value``, two integers from ``least`` on; with ``or_one`` one stands for both.

    Raises:
        TypeError: it is something else.
        ValueError: one is too small.
    """
    expected = f"{name}: expected {'one or ' if or_one else ''}two integers, {least} or more, got"
    given = (value, value) if or_one and not isinstance(value, (tuple, list)) else value
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"{expected} {value!r}")
    try:
        first, second = integer(name, given[0]), integer(name, given[1])
    except TypeError:
        raise TypeError(f"{expected} {value!r}") from None
    if first < least or second < least:
        raise ValueError(f"{expected} {value!r}")
    return first, second


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
