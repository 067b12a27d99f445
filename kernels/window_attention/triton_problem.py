"""One call of a map: its sizes, and what every kernel launched for it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..triton_launch import Config, dot_precision, launch, padded, target
from . import triton_configs
from .partition import Partition

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Problem(NamedTuple):
    """Sizes and parameters of a call. query: [B, heads, D, H, W], value has DV for D; T tangents."""

    T: int
    B: int
    heads: int
    D: int
    DV: int
    partition: Partition
    scale: float
    channels_last: bool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(
        cls,
        query: Tensor,
        value: Tensor,
        *tangents: Tensor | None,
        window_size: Sequence[int],
        shift: Sequence[int],
        scale: float,
        channels_last: bool,
    ) -> Problem:
        """The problem of these arguments; T is 1 without tangents.

        Raises:
            TypeError: the dtype is none of float16, bfloat16, float32.
            ValueError: a head's map, or with channels last an image, has more numbers than the kernels can tell apart.
        """
        if query.dtype not in _DTYPES:
            raise TypeError(f"query: dtype {query.dtype}, the triton backend has float16, bfloat16 and float32")
        T = next((t.shape[0] for t in tangents if t is not None), 1)
        (B, heads, D, height, width), DV = query.shape, value.shape[2]
        if channels_last:
            (B, height, width, heads, D), DV = query.shape, value.shape[4]
        numbers = height * width * max(D, DV) * (heads if channels_last else 1)
        if numbers >= 2**31:  # ``triton_tiles._place`` counts them in 32 bits
            what = "images with channels last" if channels_last else "maps of one head"
            raise ValueError(f"query: {what} of {numbers} numbers, the triton backend takes fewer than 2^31")
        partition = Partition(height, width, window_size, shift)
        return cls(T, B, heads, D, DV, partition, float(scale), channels_last, query.dtype, query.device)

    def maps(self, **tensors: Tensor | None) -> dict[str, Any]:
        """``x=tensor`` -> ``x_ptr``, ``x_strides`` of maps: what ``triton_tiles`` says they come as."""
        arguments: dict[str, Any] = {}
        for name, tensor in tensors.items():
            arguments[f"{name}_ptr"], arguments[f"{name}_strides"] = tensor, None
            if tensor is not None:
                x = tensor if self._is_plain(tensor) else tensor.contiguous()
                head, pixel = (-2, self._pixel_stride(x)) if self.channels_last else (-4, 1)
                strides = (0 if x.dim() == 5 else x.stride(0), x.stride(-5), x.stride(head), pixel)
                arguments[f"{name}_ptr"], arguments[f"{name}_strides"] = x, strides
        return arguments

    def tables(self, **tensors: Tensor | None) -> dict[str, Any]:
        """The same of tables [(T,) B | 1, heads | 1, 2h-1, 2w-1], stride 0 where heads share one."""
        arguments: dict[str, Any] = {}
        for name, tensor in tensors.items():
            arguments[f"{name}_ptr"], arguments[f"{name}_strides"] = tensor, None
            if tensor is not None:
                table = tensor.contiguous()
                each = table.expand(*table.shape[:-3], self.heads, *table.shape[-2:])
                arguments[f"{name}_ptr"] = table
                arguments[f"{name}_strides"] = (*(0,) * (5 - each.dim()), *each.stride()[:-2])
        return arguments

    def like(self, tensor: Tensor, *lead: int) -> Tensor:
        """Uninitialised and contiguous, [*lead, *tensor.shape]."""
        return torch.empty(*lead, *tensor.shape, dtype=self.dtype, device=self.device)

    def launch(self, kernel: Any, name: str, table: Tensor | None, **arguments: Any) -> None:
        """One program for every tile of windows and every head, and every tangent of the backward map."""
        config = self._tile(name)
        slots, images = self._sharing(table)
        groups = self._groups(images, config)
        programs = self.heads * slots * groups * (self.T if name == "backward_tangent" else 1)
        launch(kernel, programs, config, self.device, **arguments, **self._sizes(config, slots, images, groups))

    def table_parts(self, name: str, table: Tensor | None) -> Tensor:
        """Uninitialised float32: dS of every pair of tokens of a window, as the kernel of map ``name`` writes it."""
        config, (slots, images) = self._tile(name), self._sharing(table)
        shape = (self.T, config.block_m // self._tokens, self._tokens, self._tokens)
        groups = self._groups(images, config)
        return torch.empty(self.heads, slots, groups, *shape, dtype=torch.float32, device=self.device)

    def table_gradient(self, parts: Tensor | None, table: Tensor | None) -> Tensor | None:
        """[T, *table.shape] from what ``table_parts`` was filled with; None where there is none."""
        if parts is None or table is None:
            return None
        d_bias = parts.sum((2, 4)).movedim(0, 2).movedim(0, 1)  # [T, slots, heads, h·w, h·w]
        d_bias = d_bias.sum_to_size(self.T, *table.shape[:2], *d_bias.shape[-2:])
        return _diagonal_sums(d_bias, self.partition.window).to(self.dtype).contiguous()

    def has_tile(self, name: str) -> bool:
        """Whether map ``name`` has a kernel for this call; else it runs on attention's."""
        return self._config(name) is not None

    def _tile(self, name: str) -> Config:
        config = self._config(name)
        assert config is not None, "the maps ask has_tile first"
        return config

    def _config(self, name: str) -> Config | None:
        head_size = max(padded(self.D), padded(self.DV))
        return triton_configs.config(name, self._tokens, head_size, self.dtype, target(self.device))

    @property
    def _tokens(self) -> int:
        """Of a window."""
        return self.partition.window[0] * self.partition.window[1]

    def _sharing(self, table: Tensor | None) -> tuple[int, int]:
        """Tables that images have of their own (1: they share one), and the images of each."""
        slots = 1 if table is None else table.shape[0]
        return slots, self.B // max(slots, 1)

    def _groups(self, images: int, config: Config) -> int:
        """Tiles that hold the windows of so many images."""
        rows, columns = self.partition.counts
        return images * -(-rows * columns // (config.block_m // self._tokens))

    def _sizes(self, config: Config, slots: int, images: int, groups: int) -> dict[str, Any]:
        """What every kernel is given."""
        rows, columns = self.partition.counts
        left, _, top, _ = self.partition.padding
        layout = (self.partition.height, self.partition.width, rows, columns, top, left)
        return {
            "SLOTS": slots,
            "GROUPS": groups,
            "scale": self.scale,
            "layout": (*layout, images),
            "D": self.D,
            "DV": self.DV,
            "BLOCK": config.block_m,
            "BLOCK_D": padded(self.D),
            "BLOCK_DV": padded(self.DV),
            "WINDOW_H": self.partition.window[0],
            "WINDOW_W": self.partition.window[1],
            "CHANNELS_LAST": self.channels_last,
            "PRECISION": dot_precision(self.dtype, target(self.device)),
        }

    def _is_plain(self, x: Tensor) -> bool:
        """Whether a head of x is planes of pixels, or pixels of channels, at 32-bit offsets."""
        height, width = self.partition.height, self.partition.width
        if not self.channels_last:
            return x.stride()[-3:] == (height * width, width, 1)
        row, pixel = x.stride(-4), self._pixel_stride(x)
        return x.stride(-1) == 1 and row == width * pixel and height * row < 2**31

    def _pixel_stride(self, x: Tensor) -> int:
        """From pixel to pixel with channels last; the stride of a single column may be any number."""
        return x.stride(-3 if self.partition.width > 1 else -4)


def _diagonal_sums(d_bias: Tensor, window: Sequence[int]) -> Tensor:
    """[..., h·w, h·w] -> [..., 2h-1, 2w-1]: the sum over all pairs of tokens at one relative position."""
    d_bias = d_bias.unflatten(-1, window).unflatten(-3, window)  # [..., query row, query column, key row, key column]
    d_bias = _skewed_sum(d_bias.transpose(-3, -2), window[1])  # [..., query row, key row, 2w-1]
    return _skewed_sum(d_bias.movedim(-1, -3), window[0]).mT


def _skewed_sum(pairs: Tensor, size: int) -> Tensor:
    """[..., size, size] -> [..., 2·size-1]: entry k is the sum over the pairs (i, j) with j - i = k - (size-1).

    Rows in reverse order, one number longer than the result: read in rows of its length, each begins one place further
    right than the one before, and what belongs together lies in columns.
    """
    rows = F.pad(pairs.flip(-2), (0, size)).flatten(-2)
    return rows[..., : size * (2 * size - 1)].unflatten(-1, (size, 2 * size - 1)).sum(-2)
