"""Convolution over one to three axes, and every derivative.

``reference.py`` is the specification and all there is: PyTorch's own convolutions, put together to second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..checks import check_floating, check_like, integer, lowered_by_autocast
from ..dispatcher import reshaped
from .operator import convolution_operator
from .products import are_few

__all__ = ["convolution", "convolution_pays"]

Numbers = int | Sequence[int]


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Tensor:
    """The cross-correlation of x and weight, differentiable to any order; as ``torch``'s conv1d, conv2d and conv3d.

    Args:
        x: [B, C, *S] or [C, *S], floating point, with one to three axes S.
        weight: [O, C / groups, *K] in x's dtype.
        bias: [O] in x's dtype; None for none.
        stride: of the windows, one number or one for each axis of S.
        padding: zeros on both sides, likewise; "valid" for none; "same" for as many as keep S, at stride 1: an odd one
            goes behind.
        dilation: the distance of a window's entries, likewise.
        groups: divides C and O into groups that are convolved apart.

    Returns:
        [B, O, *S'] or [O, *S'] in x's dtype, contiguous. Under autocast in its dtype, as PyTorch's own.

    Raises:
        TypeError: an argument is not a floating-point tensor, dtypes differ, or a number is no integer.
        ValueError: shapes, devices or numbers do not fit.
    """
    x, weight, bias = lowered_by_autocast(x, weight, bias)
    axes = _check_tensors(x, weight, bias, integer("groups", groups))
    stride, dilation = _numbers("stride", stride, axes, 1), _numbers("dilation", dilation, axes, 1)
    if isinstance(padding, str):
        x, padding = _resolved(padding, x, weight, stride, dilation)
    else:
        padding = _numbers("padding", padding, axes, 0)
    _check_window(x, weight, padding, dilation)
    column = None if bias is None else bias[:, None]
    batched = x if x.dim() == axes + 2 else x[None]
    y = convolution_operator(batched, weight, column, weight.shape[0], stride, padding, dilation)
    return y if batched is x else reshaped(y, y.shape[1:])


def convolution_pays(x: Tensor, weight: Tensor, stride: Numbers, groups: int) -> bool:
    """Whether ``convolution`` has faster second derivatives than PyTorch's own, by shapes, on a CPU.

    It has with strides, with windows of one entry, where maps are small, and with many groups (few cost it nothing).
    Otherwise both take the same time, and PyTorch's first derivatives go without the 0.2 ms that an operator in Python
    costs.
    """
    if groups > 1 or weight.shape[2:].numel() == 1:
        return True
    if any(step > 1 for step in ([stride] if isinstance(stride, int) else stride)):
        return True
    return are_few(x.numel() // max(weight.shape[1], 1), weight.shape[0])


def _check_tensors(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> int:
    """The number of axes S."""
    check_floating("x", x)
    check_floating("weight", weight)
    axes = weight.dim() - 2
    if not 1 <= axes <= 3 or weight.numel() == 0:
        raise ValueError(f"weight: shape {tuple(weight.shape)}, expected [O, C / groups, *K] with one to three axes K")
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"x: shape {tuple(x.shape)}, expected [B, C, *S] or [C, *S] with {axes} axes S, as weight has K"
        )
    channels, out_channels = x.shape[-axes - 1], weight.shape[0]
    if groups < 1 or channels % groups or out_channels % groups:
        raise ValueError(f"groups: {groups}, expected a divisor of x's {channels} channels and weight's {out_channels}")
    check_like("weight", weight, x, (out_channels, channels // groups, *weight.shape[2:]))
    check_like("bias", bias, x, (out_channels,))
    return axes


def _numbers(name: str, given: Numbers, axes: int, least: int) -> list[int]:
    """One for each axis."""
    entries = [integer(name, number) for number in (given if isinstance(given, Sequence) else [given])]
    numbers = entries * (axes if len(entries) == 1 else 1)
    if len(numbers) != axes or min(numbers) < least:
        raise ValueError(f"{name}: {given}, expected one number or {axes}, from {least} on")
    return numbers


def _resolved(
    padding: str, x: Tensor, weight: Tensor, stride: list[int], dilation: list[int]
) -> tuple[Tensor, list[int]]:
    """x and the padding on both sides; x is padded already where the sides differ."""
    if padding == "valid":
        return x, [0] * len(stride)
    if padding != "same":
        raise ValueError(f"padding: {padding!r}, expected numbers, 'valid' or 'same'")
    if max(stride) > 1:
        raise ValueError(f"padding: 'same' with stride {stride}, expected stride 1")
    totals = [gap * (size - 1) for gap, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in totals):
        x = F.pad(x, [side for total in reversed(totals) for side in (0, total % 2)])
    return x, [total // 2 for total in totals]


def _check_window(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> None:
    axes = len(padding)
    for size, window, amount, gap in zip(x.shape[-axes:], weight.shape[2:], padding, dilation, strict=True):
        if size + 2 * amount < gap * (window - 1) + 1:
            raise ValueError(
                f"x: shape {tuple(x.shape)}, smaller than the window {tuple(weight.shape[2:])} with padding {padding} "
                f"and dilation {dilation}"
            )
