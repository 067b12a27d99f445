"""AlterNet: a pre-activation ResNet whose stages end in attention.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022 (arXiv 2202.06709), figure 8. State dicts of the authors'
code load with ``strict=True``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from . import checks
from .blocks import AttentionBlock, BasicBlock, Bottleneck
from .checkpointing import checkpointed
from .ends import Classifier, Stem

STAGES = ("layer1", "layer2", "layer3", "layer4")


class AlterNet(nn.Module):
    """Stem (``layer0``), four stages of residual blocks (``layer1`` … ``layer4``), BN-ReLU-pool-dense ``classifier``.

    images: [B, in_chans, H, W] of any size -> logits [B, num_classes].

    Args:
        block: the convolution block of every stage.
        depths: blocks per stage.
        msa_depths: attention blocks per stage. A stage of n blocks with m of them is n - 2m convolution blocks, then
            m times (convolution block, attention block). All zero: the pre-activation ResNet the paper compares with.
        num_classes: 0 leaves the classifier's dense layer out.
        in_chans: channels of the images.
        global_pool: timm's name of the pooling before the dense layer; "" for none (needs ``num_classes=0``).
        stem_pool: 7x7 convolution and max pooling, subsampling 4 times (ImageNet); False: a 3x3 convolution (CIFAR).
        window_size: side of the attention windows, in pixels of the feature map.
        widths: channels per stage before the block's expansion; the stem has the first.
        num_heads: attention heads per stage.
        head_dim: size of every head.
        drop_rate: dropout before the dense layer.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        ValueError: an argument out of its range, or images that are not [B, in_chans, H, W].
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        msa_depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        stem_pool: bool = True,
        window_size: int = 7,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        head_dim: int = 64,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        depths = checks.integers("depths", depths, length=len(STAGES))
        msa_depths = _checked_msa_depths(msa_depths, depths)
        widths = checks.integers("widths", widths, length=len(STAGES))
        num_heads = checks.integers("num_heads", num_heads, length=len(STAGES))
        self.num_classes = num_classes
        self.in_chans = checks.positive_int("in_chans", in_chans)
        self.grad_checkpointing = False

        self.layer0 = Stem(in_chans, widths[0], pool=stem_pool)
        dim, reduction = widths[0], 4 if stem_pool else 1
        self.feature_info: list[dict[str, Any]] = [{"num_chs": dim, "reduction": reduction, "module": "layer0"}]
        drop_paths = _linear_rates(checks.rate("drop_path_rate", drop_path_rate), sum(depths))
        for index, name in enumerate(STAGES):
            stride = 1 if index == 0 else 2
            pattern = _pattern(depths[index], msa_depths[index])
            attention = {"num_heads": num_heads[index], "head_dim": head_dim, "window_size": window_size}
            stage = _stage(block, pattern, dim, widths[index], stride, drop_paths, attention)
            self.add_module(name, stage)
            dim, reduction = widths[index] * block.expansion, reduction * stride
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": name})

        self.num_features = dim
        self.classifier = nn.Sequential(Classifier(dim, num_classes, global_pool, checks.rate("drop_rate", drop_rate)))
        self.head_hidden_size = self.head.num_features

    @property
    def head(self) -> Classifier:
        """The classifier; ``classifier`` wraps it in a Sequential for the sake of its parameters' names."""
        return cast(Classifier, self.classifier[0])

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """images: [B, in_chans, H, W] -> [B, num_features, H/r, W/r], after the last norm and activation."""
        x = self.layer0(images)
        for name in STAGES:
            x = self._run_stage(name, x)
        return self.head.normalise(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What ``forward_features`` returns -> logits [B, num_classes], or the pooled features with ``pre_logits``."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of stem and stages (index 0 to 4), as timm's models give them.

        ``indices``: the last n if int, all if None; ``norm`` applies the last norm and activation to stage 4's
        output; ``stop_early`` skips the stages after the last one wanted. Returns the final features with them
        unless ``intermediates_only``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        names = STAGES[:last] if stop_early else STAGES
        x = self.layer0(x)
        intermediates = [x] if 0 in wanted else []
        for index, name in enumerate(names, start=1):
            x = self._run_stage(name, x)
            if index in wanted:
                intermediates.append(self.head.normalise(x) if norm and name == STAGES[-1] else x)
        if intermediates_only:
            return intermediates
        return (self.head.normalise(x) if len(names) == len(STAGES) else x), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the layers that ``forward_intermediates`` does not need for ``indices``; returns these indices."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        for name in STAGES[last:]:
            setattr(self, name, nn.Sequential())
        pruned = last < len(STAGES)
        if pruned:
            self.num_features = self.head.dim = self.feature_info[last]["num_chs"]
        if pruned or prune_norm:
            self.head.bn = self.head.relu = nn.Identity()
        if pruned or prune_head:
            self.reset_classifier(0, "")
        return wanted

    def get_classifier(self) -> nn.Module:
        """The dense layer (``nn.Identity`` where ``num_classes`` is 0)."""
        return self.head.dense

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh dense layer on the same device and dtype; ``global_pool`` as in the constructor, None keeps it."""
        like = next(self.parameters())
        self.head.reset(num_classes, global_pool)
        self.head.to(device=like.device, dtype=like.dtype).train(self.training)
        self.num_classes, self.head_hidden_size = num_classes, self.head.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of every block in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that group parameters by stage or by block (layer-wise learning rates)."""
        return {"stem": r"^layer0", "blocks": r"^layer([1-4])" if coarse else r"^layer([1-4])\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimisers leave without weight decay: the relative-position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("pos_embedding")}

    def _run_stage(self, name: str, x: Tensor) -> Tensor:
        stage = cast(nn.Sequential, getattr(self, name))
        if not self.grad_checkpointing:
            return stage(x)
        for block in stage:
            x = checkpointed(block, x)
        return x


def _checked_msa_depths(msa_depths: Sequence[int], depths: tuple[int, ...]) -> tuple[int, ...]:
    msa_depths = checks.integers("msa_depths", msa_depths, length=len(STAGES), least=0)
    for stage, (blocks, attentions) in enumerate(zip(depths, msa_depths, strict=True), start=1):
        if 2 * attentions > blocks:
            raise ValueError(
                f"msa_depths asks for {attentions} attention blocks in stage {stage}, each after a convolution block, "
                f"but the stage has {blocks} blocks: expected at most {blocks // 2}"
            )
    return msa_depths


def _pattern(blocks: int, attentions: int) -> list[bool]:
    """Which blocks of a stage are attention blocks."""
    return [False] * (blocks - 2 * attentions) + [False, True] * attentions


def _linear_rates(last: float, count: int) -> Iterator[float]:
    return (last * index / max(count - 1, 1) for index in range(count))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    pattern: list[bool],
    dim_in: int,
    dim: int,
    stride: int,
    drop_paths: Iterator[float],
    attention: dict[str, Any],
) -> nn.Sequential:
    """The first block, a convolution block always, subsamples and widens."""
    stage = nn.Sequential()
    for is_attention, drop_path in zip(pattern, drop_paths, strict=False):
        if is_attention:
            stage.append(AttentionBlock(dim_in, dim, expansion=block.expansion, drop_path=drop_path, **attention))
        else:
            stage.append(block(dim_in, dim, stride=stride, drop_path=drop_path))
        dim_in, stride = dim * block.expansion, 1
    return stage
