"""The half-diagonal and the variance on the CPU, in C++: threaded, vectorised, one read of the maps.

Requirements: CPU tensors and the extension ``alternet._C``. Any strides serve: vectors run along rows that are
contiguous (``planar.h``) and over channels that are (``interleaved.h``); everything else is gathered a row at a time.
Sums over maps are float64. Results do not depend on the number of threads. Where a side is above ``LONGEST`` the
reference runs: the kernel's table of waves grows with the square of the side, and PyTorch's fast transform has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native
from . import reference

native.load()
_op = torch.ops.alternet_native.feature_spectrum.default
LONGEST = 1024  # the table takes 2 MB and 5 ms


def forward(maps: Tensor, *, per_image: bool) -> tuple[Tensor, Tensor]:
    """maps: [B, C, H, W] -> float64 means over channels: log amplitude [B, K] and variance [B]; else over B too."""
    if max(maps.shape[2:]) > LONGEST:
        return reference.forward(maps, per_image=per_image)
    return _op(maps, per_image)
