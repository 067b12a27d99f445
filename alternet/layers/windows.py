"""Multi-head self-attention within windows of a feature map: AlterNet's MSA.

Windows do not overlap and do not shift; one relative-position table is shared by all heads (Park & Kim,
"How Do Vision Transformers Work?", ICLR 2022, figure 8, and the authors' code).
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
                "to_q": _TokenConv2d(dim, inner, 1, bias=False),
                "to_kv": _TokenConv2d(dim, 2 * inner, 1, bias=False),
                "to_out": nn.Sequential(_TokenConv2d(inner, self.dim_out, 1)),
            }
        )
        nn.init.normal_(self.pos_embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        checks.feature_maps("x", x, self.dim)
        height, width = x.shape[2:]
        # A map smaller than the window is one window of its own size: the same answer without the padding.
        window = (min(height, self.window_size), min(width, self.window_size))
        down, right = -height % window[0], -width % window[1]
        mask = None
        if down or right:
            x = F.pad(x, (0, right, 0, down))
            mask = _inside(height, width, down, right, window, x.device)

        tokens = _partition(x, window)
        query = self._split_heads(self.attn["to_q"](tokens))
        key, value = (self._split_heads(half) for half in self.attn["to_kv"](tokens).chunk(2, dim=-1))
        table = _table_of(self.pos_embedding, window)
        out = attention(query, key, value, mask, table=table, grid=window)  # [rows, columns, B, heads, n, head_dim]
        out = self.attn["to_out"](out.transpose(-3, -2).flatten(-2))
        return _merge(out, window)[:, :, :height, :width]

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """[..., n, heads·head_dim] -> [..., heads, n, head_dim], a view."""
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, window_size={self.window_size}"


class _TokenConv2d(nn.Conv2d):
    """A 1x1 convolution of tokens [..., in_channels]: the parameters of one, computed as a matrix product.

    Cutting windows copies the map once, into tokens. Heads are then views of what the products return; projecting
    the map before cutting it would copy queries, keys and values instead, three times heads·head_dim channels.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.flatten(1), self.bias)


def _table_of(table: Tensor, window: tuple[int, int]) -> Tensor:
    """The relative positions that occur in a window, the middle of a table made for one as large or larger: a view."""
    for axis, length in enumerate(window):
        table = table.narrow(axis, (table.shape[axis] + 1) // 2 - length, 2 * length - 1)
    return table


def relative_position_bias(table: Tensor, window: tuple[int, int]) -> Tensor:
    """The bias of every pair of positions of a window, from a table of relative positions.

    table: [2w-1, 2w-1]; window: height and width, at most w each. Returns [n, n] with n = height·width and
    bias[i, j] = table[row(j) - row(i) + w - 1, column(j) - column(i) + w - 1].
    """
    table = _table_of(table, window)
    for axis, length in enumerate(window):
        # unfold: row s of the new pair of axes is table[s : s + length]. The query at i sees the keys j at the
        # offsets j - i, that is at s = length - 1 - i. (No index buffers that would have to follow the device.)
        table = table.unfold(axis, length, 1).flip(axis)
    return table.reshape(window[0] * window[1], -1)  # [query row, query column, key row, key column]


def _inside(height: int, width: int, down: int, right: int, window: tuple[int, int], device: torch.device) -> Tensor:
    """Which keys of the padded windows are pixels of the map: boolean [rows, columns, 1, 1, 1, n].

    Every window holds at least one pixel, so no row of scores is masked out entirely. The attention copies the mask for
    every image, n numbers a window beside n·heads·head_dim of its queries. Without padding, the usual case, there is
    none.
    """
    rows = (torch.arange(height + down, device=device) < height).unflatten(0, (-1, window[0]))
    columns = (torch.arange(width + right, device=device) < width).unflatten(0, (-1, window[1]))
    inside = rows[:, None, :, None] & columns[None, :, None, :]  # [rows, columns, h, w]
    return inside.flatten(2)[:, :, None, None, None]


def _partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """x: [B, dim, rows·h, columns·w] -> tokens [rows, columns, B, n, dim]."""
    x = x.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))  # [B, dim, rows, h, columns, w]
    return x.permute(2, 4, 0, 3, 5, 1).flatten(3, 4)


def _merge(tokens: Tensor, window: tuple[int, int]) -> Tensor:
    """The inverse of ``_partition``."""
    x = tokens.unflatten(3, window).permute(2, 5, 0, 3, 1, 4)  # [B, dim, rows, h, columns, w]
    return x.flatten(4, 5).flatten(2, 3)
