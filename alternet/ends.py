"""The two ends of AlterNet: stem and classifier."""

from __future__ import annotations

from timm.layers import SelectAdaptivePool2d
from timm.models import register_notrace_module
from torch import Tensor, nn

from . import checks


@register_notrace_module  # its check of the images is no graph for timm's feature extractor
class Stem(nn.Module):
    """One convolution and, for ImageNet, max pooling; no norm: the first block brings its own.

    images: [B, in_chans, H, W] -> [B, dim, H, W], with ``pool`` [B, dim, ceil(H/4), ceil(W/4)].
    """

    def __init__(self, in_chans: int, dim: int, *, pool: bool) -> None:
        super().__init__()
        self.in_chans = in_chans
        if pool:
            convolution = nn.Conv2d(in_chans, dim, 7, stride=2, padding=3, bias=False)
            self.layer0 = nn.Sequential(convolution, nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.layer0 = nn.Sequential(nn.Conv2d(in_chans, dim, 3, padding=1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        checks.feature_maps("images", images, self.in_chans)
        return self.layer0(images)


class Classifier(nn.Module):
    """BN, ReLU (``normalise``, the end of the features), then pooling, dropout and a dense layer (``forward``).

    features: [B, dim, H, W] -> logits [B, num_classes]; the pooled features where ``num_classes`` is 0.
    """

    def __init__(self, dim: int, num_classes: int, pool_type: str, drop_rate: float) -> None:
        super().__init__()
        self.dim = dim
        self.bn: nn.Module = nn.BatchNorm2d(dim)
        self.relu: nn.Module = nn.ReLU()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """A fresh dense layer for ``num_classes`` (0: none), and another pooling unless ``pool_type`` is None."""
        checks.non_negative_int("num_classes", num_classes)
        pool_type = self.pool.pool_type if pool_type is None else pool_type
        if num_classes and not pool_type:
            raise ValueError(f'global_pool="" gives feature maps, not logits: num_classes must be 0, got {num_classes}')
        self.pool: SelectAdaptivePool2d = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        self.num_features = self.dim * self.pool.feat_mult()
        self.dense = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def normalise(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(x))

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.drop(self.pool(features))
        return pooled if pre_logits else self.dense(pooled)
