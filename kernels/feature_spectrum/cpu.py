"""The half-diagonal and the variance on the CPU, in C++: threaded, vectorised, one read of the maps.

Requirements: CPU tensors and the extension ``alternet._C``. Any strides serve: vectors run along rows that are
contiguous (``planar.h``) and over channels that are (``interleaved.h``); everything else is gathered a row at a time.
Sums over maps are float64. Results do not depend on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native

native.load()
_op = torch.ops.alternet_native.feature_spectrum.default


def forward(maps: Tensor, *, per_image: bool) -> tuple[Tensor, Tensor]:
    """maps: [B, C, H, W] -> float64 means over channels: log amplitude [B, K] and variance [B]; else over B too."""
    return _op(maps, per_image)
