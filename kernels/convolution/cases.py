"""Inputs and the plain formula that every derivative of the convolution is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..draws import normals
from .operator import convolution_operator as operator  # noqa: F401 - what the tests find here


def eager(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Windows of x times W, group by group, by PyTorch's own operations: the oracle, no part of any backend."""
    axes = weight.dim() - 2
    groups = x.shape[1] // weight.shape[1]
    x = torch.nn.functional.pad(x, [amount for amount in reversed(padding) for _ in range(2)])
    for axis in range(axes):
        starts = range(0, x.shape[axis + 2] - dilation[axis] * (weight.shape[axis + 2] - 1), stride[axis])
        taps = [[start + dilation[axis] * k for k in range(weight.shape[axis + 2])] for start in starts]
        x = x[(slice(None),) * (axis + 2) + (torch.tensor(taps),)].movedim(axis + 3, -1)  # [..., S', ..., K]
    windows = x.unflatten(1, (groups, weight.shape[1])).movedim(2, 2 + axes).flatten(2 + axes)  # [B, G, *S', C K]
    flat = weight.unflatten(0, (groups, out_channels // groups)).flatten(2)  # [G, O, C K]
    y = torch.einsum("bg...k,gok->bgo...", windows, flat).flatten(1, 2)
    return y if bias is None else y + bias.view(-1, *[1] * axes)


def inputs(
    batch: int,
    channels: int,
    out_channels: int,
    space: Sequence[int],
    window: Sequence[int],
    groups: int = 1,
    bias: bool = True,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    normal = normals(generator, dtype)
    weight = 0.5 * normal(out_channels, channels // groups, *window)
    return normal(batch, channels, *space), weight, normal(out_channels, 1) if bias else None


def geometry(out_channels: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> dict:
    return {"out_channels": out_channels, "stride": stride, "padding": padding, "dilation": dilation}


# name -> (inputs, parameters), float64 and small: the transform matrix runs on each of them
CASES = {
    "plane": (inputs(2, 3, 2, (4, 3), (3, 2)), geometry(2, (1, 2), (1, 0), (1, 1))),
    "groups": (inputs(2, 4, 6, (4, 4), (2, 3), groups=2), geometry(6, (2, 1), (0, 1), (2, 1))),
    "few windows": (inputs(1, 2, 8, (3, 2), (3, 2), bias=False), geometry(8, (2, 1), (1, 1), (1, 2))),
    "line": (inputs(2, 2, 3, (5,), (2,)), geometry(3, (2,), (1,), (2,))),
    "volume": (inputs(1, 2, 2, (2, 3, 3), (2, 1, 2), bias=False), geometry(2, (1, 1, 2), (0, 0, 1), (1, 1, 1))),
}
