"""AlterNet's five sizes in timm's registry: ``import alternet; timm.create_model("alternet_18", …)``."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from . import checks
from .blocks import BasicBlock, Bottleneck
from .networks import AlterNet

__all__ = ["alternet_18", "alternet_34", "alternet_50", "alternet_101", "alternet_152"]

# Convolution block, blocks per stage, attention blocks per stage.
_SIZES = {
    "alternet_18": (BasicBlock, (2, 2, 2, 2), (0, 1, 1, 1)),
    "alternet_34": (BasicBlock, (3, 4, 6, 4), (0, 1, 3, 2)),
    "alternet_50": (Bottleneck, (3, 4, 6, 4), (0, 1, 3, 2)),
    "alternet_101": (Bottleneck, (3, 4, 23, 4), (0, 1, 3, 2)),
    "alternet_152": (Bottleneck, (3, 8, 36, 4), (0, 1, 3, 2)),
}

_UNTRAINED = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "layer0.layer0.0",
    "classifier": "classifier.0.dense",
}

default_cfgs = generate_default_cfgs({f"{name}.untrained": dict(_UNTRAINED) for name in _SIZES})


def _create(
    variant: str,
    pretrained: bool,
    *,
    img_size: int | tuple[int, int] = 224,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **chosen: Any,
) -> AlterNet:
    """Build a size of the table; ``chosen`` are further arguments of ``AlterNet``, or replace what the table says.

    ``img_size`` only goes into the model's configuration (what ``timm.data.resolve_model_data_config`` reads):
    the network runs on images of any size.
    """
    arguments = {**dict(zip(("block", "depths", "msa_depths"), _SIZES[variant], strict=True)), **chosen}
    height, width = checks.integers("img_size", [img_size] * 2 if isinstance(img_size, int) else img_size, length=2)
    reduction = 32 if arguments.get("stem_pool", True) else 8
    overlay = {
        "input_size": (arguments.get("in_chans", 3), height, width),
        "pool_size": (-(-height // reduction), -(-width // reduction)),
        **(pretrained_cfg_overlay or {}),
    }
    return build_model_with_cfg(AlterNet, variant, pretrained, pretrained_cfg_overlay=overlay, **arguments)


@register_model
def alternet_18(pretrained: bool = False, **kwargs: Any) -> AlterNet:
    """AlterNet-18: 2, 2, 2, 2 basic blocks, of which 0, 1, 1, 1 are attention; 10.0 million parameters."""
    return _create("alternet_18", pretrained, **kwargs)


@register_model
def alternet_34(pretrained: bool = False, **kwargs: Any) -> AlterNet:
    """AlterNet-34: 3, 4, 6, 4 basic blocks, of which 0, 1, 3, 2 are attention; 22.8 million parameters."""
    return _create("alternet_34", pretrained, **kwargs)


@register_model
def alternet_50(pretrained: bool = False, **kwargs: Any) -> AlterNet:
    """AlterNet-50: 3, 4, 6, 4 bottlenecks, of which 0, 1, 3, 2 are attention; 35.9 million parameters.

    The network of the paper's CIFAR-100 figure has ``msa_depths=(0, 1, 1, 2)``.
    """
    return _create("alternet_50", pretrained, **kwargs)


@register_model
def alternet_101(pretrained: bool = False, **kwargs: Any) -> AlterNet:
    """AlterNet-101: 3, 4, 23, 4 bottlenecks, of which 0, 1, 3, 2 are attention; 54.9 million parameters."""
    return _create("alternet_101", pretrained, **kwargs)


@register_model
def alternet_152(pretrained: bool = False, **kwargs: Any) -> AlterNet:
    """AlterNet-152: 3, 8, 36, 4 bottlenecks, of which 0, 1, 3, 2 are attention; 70.6 million parameters."""
    return _create("alternet_152", pretrained, **kwargs)
