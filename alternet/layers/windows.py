"""Multi-head self-attention within windows of a feature map: AlterNet's MSA.

Windows do not overlap and do not shift; one relative-position table is shared by all heads (Park & Kim,
"How Do Vision Transformers Work?", ICLR 2022, section 4 and the authors' code).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from alternet import checks
from alternet.kernels import attention


@register_notrace_module  # the layout depends on the map's size: a leaf for timm's graph feature extractor
class WindowAttention2d(nn.Module):
    """Window attention with its projections, on feature maps of any size.

    x: [B, dim, H, W] -> [B, dim_out, H, W]. A map that the window does not divide is padded on the right and
    the bottom and the padded keys are masked, so that no output depends on them.

    The parameters' names are those of the authors' code: ``pos_embedding`` [2w-1, 2w-1],
    ``attn.to_q.weight`` [heads·head_dim, dim, 1, 1], ``attn.to_kv.weight`` [2·heads·head_dim, dim, 1, 1],
    ``attn.to_out.0.weight`` [dim_out, heads·head_dim, 1, 1] and ``attn.to_out.0.bias`` [dim_out].

    Raises:
        ValueError: a size is not a positive integer, or ``x`` is not a [B, dim, H, W] map.
    """

    def __init__(
        self, dim: int, dim_out: int | None = None, *, num_heads: int, head_dim: int = 64, window_size: int = 7
    ) -> None:
        super().__init__()
        self.dim = checks.positive_int("dim", dim)
        self.dim_out = checks.positive_int("dim_out", dim if dim_out is None else dim_out)
        self.num_heads = checks.positive_int("num_heads", num_heads)
        self.head_dim = checks.positive_int("head_dim", head_dim)
        self.window_size = checks.positive_int("window_size", window_size)

        inner = num_heads * head_dim
        self.pos_embedding = nn.Parameter(torch.empty(2 * window_size - 1, 2 * window_size - 1))
        self.attn = nn.ModuleDict(
            {
                "to_q": nn.Conv2d(dim, inner, 1, bias=False),
                "to_kv": nn.Conv2d(dim, 2 * inner, 1, bias=False),
                "to_out": nn.Sequential(nn.Conv2d(inner, self.dim_out, 1)),
            }
        )
        nn.init.normal_(self.pos_embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        checks.feature_maps("x", x, self.dim)
        query = self.attn["to_q"](x)
        key, value = self.attn["to_kv"](x).chunk(2, dim=1)
        out = window_attention(query, key, value, self.pos_embedding, num_heads=self.num_heads)
        return self.attn["to_out"](out)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, window_size={self.window_size}"


def window_attention(query: Tensor, key: Tensor, value: Tensor, table: Tensor, *, num_heads: int) -> Tensor:
    """Attention of each window of a feature map to itself.

    query, key, value: [B, heads·D, H, W], head-major channels; table: [2w-1, 2w-1] for windows of w x w, shared by
    the heads (``relative_position_bias``). Returns [B, heads·D, H, W] in query's dtype. The scale is D^-0.5.

    Where w does not divide H or W the maps are padded; padded keys get a bias of -inf, padded queries are cut off
    again. A padded window holds at least one pixel of the map, so no row is masked out entirely.
    """
    batch, channels, *size = query.shape
    # A map smaller than the window is one window of its own size: the same answer without the padding.
    window = [min((table.shape[0] + 1) // 2, length) for length in size]
    grid = [-(-length // step) for length, step in zip(size, window, strict=True)]

    bias = _mask_padding(relative_position_bias(table, window), size, grid, window)
    query, key, value = (_partition(x, grid, window, num_heads) for x in (query, key, value))
    out = attention(query, key, value, bias)  # [windows, B·heads, n, D]

    out = out.reshape(*grid, batch, num_heads, *window, channels // num_heads)
    out = out.permute(2, 3, 6, 0, 4, 1, 5)  # [B, heads, D, rows, h, columns, w]
    out = out.reshape(batch, channels, grid[0] * window[0], grid[1] * window[1])
    return out[:, :, : size[0], : size[1]]


def relative_position_bias(table: Tensor, window: list[int]) -> Tensor:
    """The bias of every pair of positions of a window, from a table of relative positions.

    table: [2w-1, 2w-1]; window: height and width, at most w each. Returns [n, n] with n = height·width and
    bias[i, j] = table[row(j) - row(i) + w - 1, column(j) - column(i) + w - 1].
    """
    for axis, length in enumerate(window):
        offsets = table.narrow(axis, (table.shape[axis] + 1) // 2 - length, 2 * length - 1)
        # unfold: row s of the new pair of axes is offsets[s : s + length]. The query at i sees the keys j at the
        # offsets j - i, that is at s = length - 1 - i. Views only: no index buffers to keep on the right device.
        table = offsets.unfold(axis, length, 1).flip(axis)
    return table.reshape(window[0] * window[1], -1)  # [query row, query column, key row, key column]


def _mask_padding(bias: Tensor, size: list[int], grid: list[int], window: list[int]) -> Tensor:
    """bias [n, n] -> [windows or 1, 1, n, n], with -inf where the key is padding.

    Windows are the batch axis of the attention and images go with the heads, so that a mask that differs between
    windows, but not between images, costs windows·n² entries and never B times that.
    """
    if all(rows * step == length for rows, step, length in zip(grid, window, size, strict=True)):
        return bias[None, None]
    rows, columns = (
        (torch.arange(count * step, device=bias.device) < length).view(count, step)
        for count, step, length in zip(grid, window, size, strict=True)
    )
    inside = rows[:, None, :, None] & columns[None, :, None, :]  # [rows, columns, h, w]
    return bias.where(inside.reshape(grid[0] * grid[1], 1, 1, -1), -torch.inf)


def _partition(x: Tensor, grid: list[int], window: list[int], num_heads: int) -> Tensor:
    """x: [B, heads·D, H, W] -> [windows, B·heads, n, D], padded with zeros to whole windows."""
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, grid[1] * window[1] - width, 0, grid[0] * window[0] - height))
    x = x.reshape(batch, num_heads, channels // num_heads, grid[0], window[0], grid[1], window[1])
    x = x.permute(3, 5, 0, 1, 4, 6, 2)  # [rows, columns, B, heads, h, w, D]
    return x.reshape(grid[0] * grid[1], batch * num_heads, window[0] * window[1], channels // num_heads)
