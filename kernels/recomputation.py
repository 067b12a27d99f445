"""Activation checkpointing inside ``second_order()``: what is recomputed runs inside it too.

``torch.utils.checkpoint`` drops what a stretch of a network saves and runs the stretch again in the backward pass,
where no mode is left of those that the forward pass ran in; other functions would then save other tensors.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.utils.checkpoint

# Private names; where a release lacks them a checkpointed stretch raises PyTorch's own CheckpointError.
_top_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
_Frame: Any = getattr(torch.utils.checkpoint, "_CheckpointFrame", None)


def recompute_inside(context: Callable[[], AbstractContextManager]) -> None:
    """If a checkpointed stretch is running, its recomputation will run inside ``context()``."""
    if _top_hooks is None or _Frame is None or torch.compiler.is_compiling():
        return
    hooks = _top_hooks(False)
    if hooks is None:
        return
    frame = _frame_of(hooks[0])
    if frame is not None and not isinstance(frame.recompute_fn, _Inside):
        frame.recompute_fn = _Inside(frame.recompute_fn, context)


class _Inside:
    """A recomputation inside a context."""

    def __init__(self, recompute: Callable[..., None], context: Callable[[], AbstractContextManager]) -> None:
        functools.update_wrapper(self, recompute)
        self._recompute, self._context = recompute, context

    def __call__(self, *args: Any) -> None:
        with self._context():
            self._recompute(*args)


def _frame_of(pack_hook: Any) -> Any:
    """The record of the stretch that a hook packs tensors of; None of another's hook."""
    if not inspect.isfunction(pack_hook) or not pack_hook.__qualname__.startswith("_checkpoint_hook."):
        return None
    frame = inspect.getclosurevars(pack_hook).nonlocals.get("frame")
    return frame if isinstance(frame, _Frame) else None
