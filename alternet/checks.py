"""The user's errors: one sentence each, with the argument, what came and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch


def positive_int(name: str, value: object) -> int:
    """``value`` if it is a positive integer (``True`` is not one)."""
    if not _is_integer(value, least=1):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def non_negative_int(name: str, value: object) -> int:
    """``value`` if it is an integer that is not negative."""
    if not _is_integer(value, least=0):
        raise ValueError(f"{name} must be an integer, at least 0, got {value!r}")
    return value


def integers(name: str, values: Sequence[int], *, length: int, least: int = 1) -> tuple[int, ...]:
    """``values`` as a tuple of ``length`` integers, none below ``least``."""
    if not isinstance(values, Sequence) or len(values) != length or not all(_is_integer(v, least) for v in values):
        raise ValueError(f"{name} must be {length} integers, each at least {least}, got {values!r}")
    return tuple(values)


def feature_maps(name: str, x: torch.Tensor, channels: int) -> None:
    """Raise unless ``x`` is [B, ``channels``, H, W] with at least one pixel."""
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(
            f"{name} must be [batch, {channels}, height, width] with at least one pixel, got {list(x.shape)}"
        )


def rate(name: str, value: float) -> float:
    """``value`` if it is a probability below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")
    return value


def _is_integer(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
