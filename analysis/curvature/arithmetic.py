"""The arithmetic of measurements: that of the dtype, whatever the caller's switches say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from alternet.kernels import tile_products


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """No autocast and no reduced float32 inside: cuDNN's TF32, on by default, costs 1e-3. Gradients in any case.

    On a CPU with AMX products of matrices run in its tiles, as exact as float32's own.
    """
    backends: Any = torch.backends
    cudnn, onednn = backends.cudnn, backends.mkldnn
    switches = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with (
            torch.autocast(device.type, enabled=False),
            torch.inference_mode(False),  # ends no_grad too
            tile_products(),
        ):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
