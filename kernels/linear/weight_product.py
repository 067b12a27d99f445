"""The gradient of a weight in bfloat16, by the tiles of AMX where a CPU has them.

PyTorch's product of two factors that both lie along the depth runs at a third to a half of the speed of its others, and
a sum of two of them is rounded in between.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native

BLOCK = 32  # of which both sides of a weight are multiples


def weight_product(pairs: list[tuple[Tensor, Tensor]]) -> Tensor | None:
    """gᵀ x [O, C], summed over one or two pairs of g [N, O] and x [N, C]; None where the tiles do not serve them."""
    if not (all(_is_served(t) for pair in pairs for t in pair) and _available()):
        return None
    more = pairs[1] if len(pairs) > 1 else (None, None)
    return torch.ops.alternet_native.weight_product(*pairs[0], *more)


def _is_served(t: Tensor) -> bool:
    served = t.dtype == torch.bfloat16 and t.is_cpu and t.stride(1) == 1
    return served and t.numel() > 0 and t.shape[1] % BLOCK == 0


def _available() -> bool:
    return native.unavailable_reason() is None and torch.ops.alternet_native.has_tiles()
