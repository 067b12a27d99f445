"""Taps: the places where the residual stream of a network is read.

The figures of Park & Kim (ICLR 2022) show the stream after the stem, after every convolution block and after every
attention and MLP sub-block. All of these are inputs or outputs of modules, so that hooks read them and no block is
written a second time: in a pre-norm transformer block, for example,

    x = x + drop_path1(ls1(attn(norm1(x))))   # the stream after the attention sub-block is the input of norm2,
    x = x + drop_path2(ls2(mlp(norm2(x))))    # the stream after the MLP sub-block the output of the block
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from timm.models.resnet import ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from alternet.blocks import AttentionBlock
from alternet.networks import STAGES, AlterNet

if TYPE_CHECKING:
    from typing_extensions import Self

Kind = Literal["stem", "conv", "msa", "mlp"]
Reads = Literal["input", "output"]

SUPPORTED = (
    "a timm ResNet or ResNetV2, a timm VisionTransformer (ViT, DeiT) made of Block or ResPostBlock, or an AlterNet"
)

# The submodule of a transformer block whose input is the stream after the attention sub-block. Keyed by the forward
# function and not by the class: a subclass with a forward of its own may order its sub-blocks in any way.
BETWEEN_SUB_BLOCKS = {Block.forward: "norm2", ResPostBlock.forward: "mlp"}


@dataclass(frozen=True)
class Place:
    """Where something is in a network: what stands there is the submodule at the dotted path ``module``.

    ``name`` is unique within the network. ``kind`` says what the stream passes there. ``stage`` counts from 1 (the stem
    is 0; a ViT has one stage). ``depth`` runs from 0 (the stem) to 1 (the last block) in equal steps.
    """

    name: str
    kind: Kind
    stage: int
    depth: float
    module: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The place of a row of a result file, which may hold more. Raises KeyError where it holds less."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Tap(Place):
    """One place where the residual stream is read, behind what its ``kind`` says.

    The stream is the input or the output (``reads``) of the submodule.
    """

    reads: Reads


def taps(model: nn.Module) -> list[Tap]:
    """The taps of ``model``, in the order in which an image passes them.

    Raises:
        TypeError: the model is of a family that is not supported, or a transformer whose blocks are not one attention
            sub-block followed by one MLP sub-block.
    """
    if isinstance(model, VisionTransformer):
        places = _vit_places(model)
    elif isinstance(model, ResNetV2):
        places = _staged_places(model, [f"stages.{index}.blocks" for index in range(len(model.stages))])
    elif isinstance(model, ResNet | AlterNet):
        places = _staged_places(model, STAGES)  # timm's ResNet gives its stages the same names
    else:
        raise TypeError(f"model: got {type(model).__name__}, expected {SUPPORTED}")
    steps = len(places) - 1
    return [Tap(depth=number / steps, **place) for number, place in enumerate(places)]


def stage_ends(places: Sequence[Tap]) -> list[int]:
    """The numbers of the last taps of stages that another stage follows, of all the taps of a network."""
    return [number for number, (before, tap) in enumerate(pairwise(places)) if 0 < before.stage < tap.stage]


def stage_boundaries(places: Sequence[Tap]) -> tuple[float, ...]:
    """The depths halfway between two stages, of all the taps of a network."""
    return tuple((places[end].depth + places[end + 1].depth) / 2 for end in stage_ends(places))


@contextmanager
def observe(model: nn.Module, visit: Callable[[Tap, Tensor], None]) -> Iterator[list[Tap]]:
    """Inside the block, every forward pass of ``model`` calls ``visit(tap, maps)`` at each of its taps (yielded).

    ``maps`` is the stream as [B, C, H, W], in the dtype of the network. The tokens of a ViT [B, N, C] come without
    class, distillation and register tokens, laid out on the grid of patches. ``visit`` must neither change ``maps``
    nor keep them without a copy: blocks work in place. The hooks are gone after the block, whatever ends it.

    Raises:
        TypeError: as ``taps`` does.
        ValueError: (in a forward pass) the tokens do not fill the grid of patches.
    """
    places = taps(model)
    as_maps = None
    with ExitStack() as hooks:
        if isinstance(model, VisionTransformer):
            as_maps = _PatchGrid(model)
            hooks.callback(as_maps.embed.register_forward_pre_hook(as_maps.note_image_size).remove)
        for tap in places:
            handle = _hook(model.get_submodule(tap.module), tap, visit, as_maps)
            hooks.callback(handle.remove)
        yield places


def _vit_places(model: VisionTransformer) -> list[dict[str, Any]]:
    places = [_place("stem", "stem", 0, "blocks.0", "input")]
    for number, block in enumerate(model.blocks):
        between = BETWEEN_SUB_BLOCKS.get(type(block).forward)
        if between is None:
            raise TypeError(f"model: blocks.{number} is a {type(block).__name__}, expected {SUPPORTED}")
        path = f"blocks.{number}"
        places.append(_place(f"{path}.attn", "msa", 1, f"{path}.{between}", "input"))
        places.append(_place(f"{path}.mlp", "mlp", 1, path, "output"))
    return places


def _staged_places(model: nn.Module, stages: Sequence[str]) -> list[dict[str, Any]]:
    places = [_place("stem", "stem", 0, f"{stages[0]}.0", "input")]
    for number, stage in enumerate(stages, start=1):
        for name, block in model.get_submodule(stage).named_children():
            kind: Kind = "msa" if isinstance(block, AttentionBlock) else "conv"
            places.append(_place(f"{stage}.{name}", kind, number, f"{stage}.{name}", "output"))
    return places


def _place(name: str, kind: Kind, stage: int, module: str, reads: Reads) -> dict[str, Any]:
    return {"name": name, "kind": kind, "stage": stage, "module": module, "reads": reads}


def _hook(module: nn.Module, tap: Tap, visit: Callable[[Tap, Tensor], None], as_maps: _PatchGrid | None) -> Any:
    def see(stream: Tensor) -> None:
        visit(tap, stream if as_maps is None else as_maps(stream))

    if tap.reads == "input":
        return module.register_forward_pre_hook(lambda module, inputs: see(inputs[0]))
    return module.register_forward_hook(lambda module, inputs, output: see(output))


class _PatchGrid:
    """Lays the patch tokens of a ViT out as maps; the grid follows the image where the model takes any image size."""

    def __init__(self, model: VisionTransformer) -> None:
        self.embed: Any = model.patch_embed
        self.dynamic = model.dynamic_img_size
        self.prefix = model.num_prefix_tokens
        self.image_size: tuple[int, ...] = ()

    def note_image_size(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.image_size = tuple(inputs[0].shape[-2:])

    def __call__(self, tokens: Tensor) -> Tensor:  # [B, prefix + H·W, C] -> [B, C, H, W]
        height, width = self.embed.dynamic_feat_size(self.image_size) if self.dynamic else self.embed.grid_size
        patches = tokens[:, self.prefix :]
        if patches.shape[1] != height * width:
            raise ValueError(
                f"model: got {patches.shape[1]} patch tokens, expected {height} x {width} (is patch dropout active?)"
            )
        return patches.transpose(1, 2).unflatten(2, (height, width))
