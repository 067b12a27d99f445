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
from alternet.kernels import window_attention


@register_notrace_module  # the layout depends on the map's size: a leaf for timm's graph feature extractor
class WindowAttention2d(nn.Module):
    """Window attention with its projections, on feature maps of any size.

    x: [B, dim, H, W] -> [B, dim_out, H, W]. A map that the window does not divide ends in smaller windows on the right
    and at the bottom.

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
        # A map smaller than the window is one window of its own size: a smaller table serves it.
        window = (min(height, self.window_size), min(width, self.window_size))
        pixels = x.permute(0, 2, 3, 1).contiguous()
        query = self.attn["to_q"](pixels)
        key, value = self.attn["to_kv"](pixels).chunk(2, dim=-1)
        table = _table_of(self.pos_embedding, window)
        maps = (t.permute(0, 3, 1, 2) for t in (query, key, value))
        out = window_attention(*maps, window_size=window, num_heads=self.num_heads, table=table)
        return self.attn["to_out"](out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, window_size={self.window_size}"


class _TokenConv2d(nn.Conv2d):
    """A 1x1 convolution of tokens [..., in_channels]: the parameters of one, computed as a matrix product.

    One copy makes tokens of the map; what the products return is read as channels-last maps where it lies.
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
