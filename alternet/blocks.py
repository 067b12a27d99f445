"""The residual blocks of AlterNet: two pre-activation convolution blocks and the attention block.

All map [B, dim_in, H, W] to [B, dim·expansion, ceil(H/stride), ceil(W/stride)]; submodules carry the names of the
authors' code so that its state dicts load.
"""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn

from .layers import WindowAttention2d


class _PreActivationBlock(nn.Module):
    """``forward`` of all blocks: activate, branch, add the skip.

    The skip is the raw input (the residual stream is never normalised), unless a convolution has to change its
    shape: that one reads the activated input, as in pre-activation ResNets (He et al. 2016, arXiv 1603.05027).
    """

    expansion: int

    def __init__(self, dim_in: int, dim_out: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()
        if stride != 1 or dim_in != dim_out:
            self.shortcut.append(nn.Conv2d(dim_in, dim_out, 1, stride=stride, bias=False))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def activate(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        skip = self.shortcut(activated) if len(self.shortcut) else x
        return skip + self.drop_path(self.branch(activated))


class BasicBlock(_PreActivationBlock):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, dim_in: int, dim: int, *, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__(dim_in, dim, stride, drop_path)
        self.bn = nn.BatchNorm2d(dim_in)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(dim_in, dim, 3, stride=stride, padding=1, bias=False)
        self.conv2 = _normalised(dim, nn.Conv2d(dim, dim, 3, padding=1, bias=False))

    def activate(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(x))

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Bottleneck(_PreActivationBlock):
    """1x1, 3x3 (with the stride), 1x1 convolution to ``dim * 4`` channels (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, dim_in: int, dim: int, *, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__(dim_in, dim * self.expansion, stride, drop_path)
        self.bn = nn.BatchNorm2d(dim_in)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(dim_in, dim, 1, bias=False)
        self.conv2 = _normalised(dim, nn.Conv2d(dim, dim, 3, stride=stride, padding=1, bias=False))
        self.conv3 = _normalised(dim, nn.Conv2d(dim, dim * self.expansion, 1, bias=False))

    def activate(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(x))

    def branch(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


class AttentionBlock(_PreActivationBlock):
    """BN, GELU, 1x1 convolution to ``dim_in / expansion``, BN, window attention to ``dim * expansion``.

    No norm follows the attention. It takes the place of a convolution block of the same ``expansion``, at the end of
    a stage, where nothing is subsampled: it has no stride.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        *,
        expansion: int = 1,
        num_heads: int,
        head_dim: int = 64,
        window_size: int = 7,
        drop_path: float = 0.0,
    ) -> None:
        if dim_in % expansion:
            raise ValueError(f"dim_in must be a multiple of the expansion {expansion}, got {dim_in}")
        super().__init__(dim_in, dim * expansion, 1, drop_path)
        self.expansion = expansion
        width = dim_in // expansion
        self.norm1 = nn.BatchNorm2d(dim_in)
        self.gelu = nn.GELU()
        self.conv = nn.Conv2d(dim_in, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.attn = WindowAttention2d(
            width, dim * expansion, num_heads=num_heads, head_dim=head_dim, window_size=window_size
        )

    def activate(self, x: Tensor) -> Tensor:
        return self.gelu(self.norm1(x))

    def branch(self, x: Tensor) -> Tensor:
        return self.attn(self.norm2(self.conv(x)))


def _normalised(dim: int, convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(dim), nn.ReLU(), convolution)
