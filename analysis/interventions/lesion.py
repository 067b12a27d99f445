"""Figure 7: the accuracy that each unit of a trained network is worth, which is what its removal costs.

Park & Kim, ICLR 2022 (arXiv 2202.06709), figure 7: removed are a ViT's attention and MLP branches and the 3x3
convolutions of a ResNet's bottlenecks. What is removed, and what takes its place:

- of a transformer block the attention branch, or the MLP branch: zero is added to the stream;
- of a bottleneck the 3x3 convolution: its input goes on, so that the block stays one of 1x1 convolutions;
- of a block of two 3x3 convolutions its residual branch: zero is added;
- of AlterNet's attention blocks the attention, which is the end of the branch: zero is added.

No units are 3x3 convolutions of bottlenecks that subsample or change the number of channels, for which no identity can
stand in, and branches of two 3x3 convolutions beside a shortcut that is itself a convolution: mostly those of the first
blocks of stages. Neither weights nor statistics of norms change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from timm.models import resnet, resnetv2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from alternet.analysis.features.taps import Place, Tap, stage_boundaries, taps
from alternet.analysis.files import complete, load_json, save_csv, save_json
from alternet.analysis.interventions.accuracy import COLUMNS, Outcomes, classify, logits
from alternet.blocks import AttentionBlock, BasicBlock, Bottleneck

KIND, JOURNAL_KIND = "alternet lesion study", "alternet accuracy under lesions"
Removal = Literal["zero", "identity"]

# The 3x3 convolution of every kind of bottleneck; the last is AlterNet's.
BOTTLENECKS: dict[type[nn.Module], str] = {
    resnet.Bottleneck: "conv2",
    resnetv2.Bottleneck: "conv2",
    resnetv2.PreActBottleneck: "conv2",
    Bottleneck: "conv2.2",
}
BLOCKS = "blocks of two 3x3 convolutions or bottlenecks, as in timm's resnet18 and resnet50, or AlterNet's"


@dataclass(frozen=True)
class Unit(Place):
    """What can be removed of a network; in name, kind, stage and depth the tap behind it.

    Removed is what the submodule computes: ``removal`` says whether zeros or its input take its place.
    """

    removal: Removal


def units(model: nn.Module) -> list[Unit]:
    """What can be removed of ``model``, in the order in which an image passes it.

    Raises:
        TypeError: as ``taps`` does, and for blocks of other ResNets.
    """
    find = _branch if isinstance(model, VisionTransformer) else _convolution_or_branch
    found = ((tap, find(model, tap)) for tap in taps(model)[1:])  # behind the stem
    return [Unit(tap.name, tap.kind, tap.stage, tap.depth, *place) for tap, place in found if place is not None]


@contextmanager
def removed(model: nn.Module, unit: Unit) -> Iterator[None]:
    """Inside the block ``model`` computes without ``unit``; it is whole again after it, whatever ends it."""
    replace = {"zero": _zeros, "identity": _input}[unit.removal]
    hook = model.get_submodule(unit.module).register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True, eq=False)
class LesionResult(Outcomes):
    """Which images are right without each unit: ``correct`` bool [units, N], ``baseline`` with all of them.

    Units in order of depth. ``boundaries`` are the depths halfway between two stages of the network.
    """

    units: tuple[Unit, ...]
    boundaries: tuple[float, ...]

    @property
    def conditions(self) -> list[str]:
        return [f"without {unit.name}" for unit in self.units]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads, with accuracies, drops and their intervals."""
        content = self.content(asdict(unit) for unit in self.units)
        save_json(path, KIND, {"boundaries": self.boundaries, **content})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LesionResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            found = tuple(Unit.from_row(row) for row in content["conditions"])
            return cls(**cls.fields(content), units=found, boundaries=tuple(content["boundaries"]))

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per unit, for other programs; intervals that do not exist are ``nan``."""
        rows = (
            [self.network, self.images, self.accuracy, unit.name, unit.kind, unit.stage, unit.depth, *row]
            for unit, row in zip(self.units, self.rows(), strict=True)
        )
        save_csv(path, f"network images baseline unit kind stage depth {COLUMNS}", rows)


def lesion_study(
    model: nn.Module,
    batches: Any,
    *,
    network: str,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LesionResult:
    """Classify images with the whole network and without each of its ``units``: 1 + units forward passes per batch.

    Args:
        model: any that ``units`` knows, on any device; given back in the modes it came in.
        batches: has ``len`` and yields (images [B, 3, H, W], targets int64 [B]), as ``eval_batches`` makes them; the
            same in every iteration.
        network: the name that results and figures show.
        out: a ``.jsonl`` file that gets one line per finished batch; where it exists, the study goes on behind the
            batches it holds, which are read again to see that they are the same.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        TypeError: as ``units`` does.
        ValueError: nothing of the model can be removed; no batches, or targets that are no classes; an ``out`` that is
            broken or belongs to another network or other images.
        FloatingPointError: logits of the whole network that are not finite.
    """
    found = units(model)
    if not found:
        raise ValueError(f"model: {type(model).__name__} has no unit that can be removed, expected at least one")

    def without(unit: Unit, images: Tensor, first: int) -> Tensor:
        with removed(model, unit):
            return logits(model, images)

    baseline, correct = classify(
        model,
        batches,
        [partial(without, unit) for unit in found],
        kind=JOURNAL_KIND,
        settings={"units": {unit.module: unit.removal for unit in found}},
        out=out,
        progress=progress,
    )
    return LesionResult(network, baseline, correct, tuple(found), stage_boundaries(taps(model)))


def _zeros(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return inputs[0]


def _branch(model: nn.Module, tap: Tap) -> tuple[str, Removal]:
    """Drop path ends a branch of both of timm's blocks: behind layer scale, and behind a norm where one follows."""
    block, _, _ = tap.name.rpartition(".")
    return f"{block}.{'drop_path1' if tap.kind == 'msa' else 'drop_path2'}", "zero"


def _convolution_or_branch(model: nn.Module, tap: Tap) -> tuple[str, Removal] | None:
    """The submodule that goes of the block behind which ``tap`` reads, and what takes its place; None: no unit."""
    block: Any = model.get_submodule(tap.module)
    for bottleneck, convolution in BOTTLENECKS.items():
        if _runs_as(block, bottleneck):
            keeps = _keeps_shape(block.get_submodule(convolution))
            return (f"{tap.module}.{convolution}", "identity") if keeps else None
    if _runs_as(block, AttentionBlock):
        return f"{tap.module}.drop_path", "zero"
    if _runs_as(block, BasicBlock):
        return None if len(block.shortcut) else (f"{tap.module}.drop_path", "zero")
    if _runs_as(block, resnet.BasicBlock) or _runs_as(block, resnetv2.PreActBasic):
        end = next(name for name in ("drop_path", "se", "bn2") if getattr(block, name, None) is not None)
        return None if block.downsample is not None else (f"{tap.module}.{end}", "zero")
    raise TypeError(f"model: {tap.module} is a {type(block).__name__}, expected {BLOCKS}")


def _runs_as(block: nn.Module, kind: type[nn.Module]) -> bool:
    """A subclass with a forward of its own may do anything."""
    return isinstance(block, kind) and type(block).forward is kind.forward


def _keeps_shape(convolution: Any) -> bool:
    """All of these convolutions pad their maps, so that only a stride changes their size."""
    return convolution.stride == (1, 1) and convolution.in_channels == convolution.out_channels
