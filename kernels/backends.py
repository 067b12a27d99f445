"""Which implementation of an operator runs, and why.

A backend is a module of an operator's folder (``attention/cpu.py``) with the operator's four maps.
Requirements: ``reference`` none; ``cpu`` CPU tensors and the compiled extension ``alternet._C``;
``triton`` CUDA or ROCm tensors and the ``triton`` package, or CPU tensors under ``TRITON_INTERPRET=1``
(the interpreter proves arithmetic and is never chosen unless asked for by name).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType

import torch

from . import native

BACKENDS = ("reference", "cpu", "triton")
AUTO = "auto"

# The backend of a call is decided when the call is made and travels with it: the backward pass of a
# forward pass runs on the same backend, in whatever thread autograd runs it.
_chosen = AUTO


class use_backend:
    """Run the operators called inside on one backend, whatever the device would have chosen.

    >>> with use_backend("reference"):
    ...     out = attention(query, key, value)

    Their derivatives run on it too, also when they are taken after the block has ended. Like
    ``torch.backends`` flags the choice holds for the whole process, not for one thread. The environment
    variable ``ALTERNET_BACKEND`` sets it from outside. ``"auto"`` gives the device's own choice back.

    Raises:
        ValueError: ``name`` is not a backend.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked(name)
        self.previous: list[str] = []

    def __enter__(self) -> None:
        global _chosen
        self.previous.append(_chosen)
        _chosen = self.name

    def __exit__(self, *exception: object) -> None:
        global _chosen
        _chosen = self.previous.pop()


def chosen() -> str:
    """The backend asked for by ``use_backend`` or ``ALTERNET_BACKEND``; ``"auto"`` where nobody asked."""
    return _chosen


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with ``None`` where it can run here and the reason where it cannot."""
    return {"reference": None, "cpu": native.unavailable_reason(), "triton": _triton_missing()}


def resolve(name: str, tensor: torch.Tensor) -> str:
    """The backend that serves ``tensor`` when ``name`` was asked for.

    Raises:
        RuntimeError: ``name`` was asked for by name and cannot run here, or not on this device or dtype.
    """
    if name == AUTO and tensor.is_cpu and native.unavailable_reason() is None:  # most calls: quickly
        return "cpu"
    if name != AUTO:
        reason = _refusal(name, tensor.device.type, tensor.dtype)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run this call: {reason}")
        return name
    preferred = {"cpu": "cpu", "cuda": "triton"}.get(tensor.device.type, "reference")
    reason = _refusal(preferred, tensor.device.type, tensor.dtype)
    if reason is None:
        return preferred
    _say_once(f"alternet runs the reference backend for {tensor.dtype} on {tensor.device.type}: {reason}")
    return "reference"


@functools.cache
def implementation(operator: str, backend: str) -> ModuleType:
    """The module with the four maps of ``operator`` on ``backend``."""
    return importlib.import_module(f"{__package__}.{operator}.{backend}")


def _refusal(name: str, device: str, dtype: torch.dtype) -> str | None:
    if name == "reference":
        return None
    if name == "cpu":
        return native.unavailable_reason() or (None if device == "cpu" else f"its tensors are on {device}")
    if dtype == torch.float64:
        return "the Triton kernels have no float64"
    if device == "cpu" and not _interpreting():
        return "its tensors are on the CPU and TRITON_INTERPRET=1 is not set"
    if device not in ("cpu", "cuda"):
        return f"its tensors are on {device}"
    return _triton_missing()


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (Linux: pip install triton; there is none for macOS)"
    if not torch.cuda.is_available() and not _interpreting():
        return "no CUDA or ROCm device is visible to torch (on the CPU: TRITON_INTERPRET=1 runs its interpreter)"
    return None


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def _checked(name: str) -> str:
    if name not in (*BACKENDS, AUTO):
        raise ValueError(f"name: unknown backend {name!r}, expected one of {', '.join(BACKENDS)} or auto")
    return name


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


_chosen = _checked(os.environ.get("ALTERNET_BACKEND", AUTO))
