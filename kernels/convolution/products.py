"""The three products of a convolution: of W and x, of W and g (to x), and of x and g (to W).

All are PyTorch's own, which run oneDNN on a CPU and cuDNN on a GPU, but for one: the product to W where maps are small,
which is one matrix product of g and the windows of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Products:
    """The products for x and W of one shape.

    ``vmap`` makes many convolutions of one: E members, each with a batch and a weight of its own. They run as one
    convolution whose groups are those of all members: ``wide`` sets the members beside each other along the channels,
    ``narrow`` sets them back.

    Args:
        x: [E B, C, *S].
        weight: [E O, C / groups, *K].
        out_channels: O, by which E is known.
        stride, padding, dilation: one number for each axis of S.
    """

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        *,
        out_channels: int,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        self.members = weight.shape[0] // out_channels
        self.groups = self.members * (x.shape[1] // weight.shape[1])
        self._window, self._stride, self._padding, self._dilation = weight.shape[2:], stride, padding, dilation
        self._geometry = (stride, padding, dilation, False, [0] * len(self._window), self.groups)

    def wide(self, t: Tensor) -> Tensor:
        """[..., E B, C, *S] -> [..., B, E C, *S]."""
        if self.members == 1:
            return t
        batch = t.dim() - len(self._window) - 2
        members = t.unflatten(batch, (self.members, t.shape[batch] // self.members))
        return members.transpose(batch, batch + 1).flatten(batch + 1, batch + 2)

    def narrow(self, t: Tensor) -> Tensor:
        """[..., B, E C, *S] -> [..., E B, C, *S]."""
        if self.members == 1:
            return t
        batch = t.dim() - len(self._window) - 2
        members = t.unflatten(batch + 1, (self.members, t.shape[batch + 1] // self.members))
        return members.transpose(batch, batch + 1).flatten(batch, batch + 1)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [B, G C, *S], weight [G O, C, *K], bias [G O, 1] -> [B, G O, *S']."""
        return torch.convolution(x, weight, None if bias is None else bias[:, 0], *self._geometry)

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
        """The cotangents of x, weight and bias for that of ``convolve``'s result; ``None`` where not needed."""
        by_windows = needs[1] and self.by_windows(grad)
        of_weight = needs[1] and not by_windows
        # oneDNN makes the product to W for the bias's sake too, and returns it unasked
        mask = [needs[0], of_weight, needs[2] and of_weight]
        d_x = d_weight = d_bias = None
        if any(mask):
            sizes = [weight.shape[0]]
            d_x, d_weight, d_bias = torch.ops.aten.convolution_backward(grad, x, weight, sizes, *self._geometry, mask)
        if by_windows:
            d_weight = self.product_of_windows(grad, x, weight)
        if needs[2] and d_bias is None:
            d_bias = grad.sum((0, *range(2, grad.dim())))
        return [d_x, d_weight, None if d_bias is None else d_bias[:, None]]

    def by_windows(self, grad: Tensor) -> bool:
        """Whether the product of x and ``grad`` is that of few windows: ``product_of_windows``."""
        windows = grad.shape[0] * grad.shape[2:].numel()
        return self.groups == 1 and grad.device.type == "cpu" and are_few(windows, grad.shape[1])

    def product_of_windows(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """grad [B, O, *S'], x [B, C, *S] -> the cotangent of weight, in its shape."""
        axes = len(self._window)
        if any(self._padding):
            x = F.pad(x, [amount for amount in reversed(self._padding) for _ in range(2)])
        for axis, (size, step, gap) in enumerate(zip(self._window, self._stride, self._dilation, strict=True)):
            x = x.unfold(axis + 2, gap * (size - 1) + 1, step)[..., ::gap]
        windows = x.movedim(1, axes + 1).flatten(axes + 1).flatten(0, axes)  # [B, C, *S', *K] -> [B S', C K]
        return (grad.movedim(1, -1).flatten(0, -2).t() @ windows).view(weight.shape)


def are_few(windows: int, out_channels: int) -> bool:
    """Whether windows are so few that gathering them is cheap, for the product to W.

    It then ran at 0.9 to 16 times oneDNN's speed: float32, two threads, 512 and 2048 output channels. With as many
    windows as channels oneDNN is the faster one.
    """
    return 2 * windows <= out_channels


def abreast(t: Tensor, axis: int, groups: int) -> Tensor:
    """[T, ..., G n, ...] -> [..., G T n, ...] at ``axis``: T tangents as T times the channels of every group."""
    if t.shape[0] == 1:
        return t[0]
    split = t.unflatten(axis + 1, (groups, t.shape[axis + 1] // groups))
    return split.movedim(0, axis + 1).flatten(axis, axis + 2)


def apart(t: Tensor, axis: int, groups: int, count: int) -> Tensor:
    """``abreast`` undone, for T = ``count``."""
    if count == 1:
        return t[None]
    split = t.unflatten(axis, (groups, count, t.shape[axis] // (groups * count)))
    return split.movedim(axis + 1, 0).flatten(axis + 1, axis + 2)


def result_shape(
    x: Sequence[int],
    weight: Sequence[int],
    *,
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Of y, [E B, O, *S'], from those of x and weight."""
    sizes = zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    return x[0], out_channels, *((s + 2 * p - d * (k - 1) - 1) // step + 1 for s, k, step, p, d in sizes)
