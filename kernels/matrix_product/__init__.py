"""PyTorch's own products of float32 matrices on a CPU, by its 16-bit tiles and as exact as before.

Derivatives of linear layers are products of matrices, and autograd calls ``aten::mm`` for them without asking anyone.
So it is replaced, below autograd and every transform; in a thread that has not entered ``tile_products`` the
replacement calls PyTorch's own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from .. import native

__all__ = ["tile_products"]


class tile_products:
    """Inside, ``torch.mm`` of float32 matrices on a CPU runs in the tiles of AMX where the processor has them.

    >>> with tile_products():
    ...     products = torch.autograd.grad(gradients, parameters, directions, retain_graph=True)

    Each number is the sum of three bfloat16, each product the sum of six of theirs in float32: half the error of
    float32's own products, and the same on any number of threads (of numbers below 2^-102 8 to 24 bits are kept). What
    is small, has no unit stride or has infinities in it, or is below 2^-60 throughout, goes to PyTorch; so does
    everything where less precision of float32 is allowed (``torch.backends.mkldnn.matmul.fp32_precision``), in code
    that ``torch.compile`` makes, and on other processors.

    It holds for this thread, may be entered again inside itself, and is on inside the products of
    ``alternet.analysis``. From the first time on ``torch.mm`` on a CPU takes 2 microseconds longer in this process.

    Source: Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
    computations", ARITH 2019.
    """

    def __enter__(self) -> None:
        if not torch.compiler.is_compiling() and _available():
            backends: Any = torch.backends
            torch.ops.alternet_native.enter_tiles(backends.mkldnn.matmul.fp32_precision in ("none", "ieee"))

    def __exit__(self, *exception: object) -> None:
        if not torch.compiler.is_compiling() and _available():
            torch.ops.alternet_native.leave_tiles()


@functools.cache
def _available() -> bool:
    return native.unavailable_reason() is None and "amx" in torch.ops.alternet_native.instruction_sets()
