"""A network and its loss on one batch as functions of the parameters, the same in every call.

Second derivatives are those of a function, so whatever else a network reads or writes must not change between calls:
modes, running statistics, random masks. They are set for the time of a call, and the model is given back as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._pytree import tree_leaves

from alternet.analysis.curvature.parameters import Named
from alternet.analysis.training.seeding import seeded
from alternet.kernels import second_order

Loss = Callable[[Any, Tensor], Tensor]
SWITCHES = ("fused_attn", "track_running_stats", "training")  # attributes of modules that a call may change


@dataclass(frozen=True)
class Conditions:
    """How a network is evaluated; each is explained at ``HessianOperator``.

    batch_norm: "running" or "batch".
    dropout: "off" or "frozen".
    seed: of frozen masks, and of anything else that is drawn.
    autocast: the dtype of products, or None for that of the parameters.
    """

    batch_norm: str = "running"
    dropout: str = "off"
    seed: int = 0
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        for name, known in (("batch_norm", ("running", "batch")), ("dropout", ("off", "frozen"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {list(known)}, got {getattr(self, name)!r}")

    @contextmanager
    def applied(self, model: nn.Module, number: int, device: torch.device) -> Iterator[None]:
        """Inside, ``model`` is evaluated so, with the random numbers of batch ``number``; as it was afterwards."""
        modules = list(model.modules())
        before = [{name: vars(module)[name] for name in SWITCHES if name in vars(module)} for module in modules]
        try:
            self._switch(model)
            low = torch.autocast(device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False)
            # What second_order does not serve: PyTorch's plain attention, for its fused one is differentiable once.
            with seeded(self.seed, "masks", number, device=device), second_order(), sdpa_kernel(SDPBackend.MATH), low:
                yield
        finally:
            for module, values in zip(modules, before, strict=True):
                for name, value in values.items():
                    setattr(module, name, value)

    def _switch(self, model: nn.Module) -> None:
        model.train(self.dropout == "frozen")
        for module in model.modules():
            if "fused_attn" in vars(module):
                vars(module)["fused_attn"] = True  # timm's switch: call PyTorch's function, which is then ours
            if isinstance(module, _NormBase):
                batch = self.batch_norm == "batch"
                module.train(batch)
                # Training without tracking: the statistics of the batch, and no update of the running ones.
                module.track_running_stats = module.track_running_stats and not batch


@dataclass(frozen=True)
class Evaluation:
    """``loss(model(images), targets)`` as functions of the selected parameters.

    All other parameters, and copies of the buffers, are constants. ``images`` and ``targets`` move to ``device`` for
    the time of a call. ``number`` tells the random masks of one batch from those of another.
    """

    model: nn.Module
    loss: Loss
    images: Tensor
    targets: Tensor
    device: torch.device
    conditions: Conditions
    number: int = 0

    def output(self, parameters: Named) -> Any:
        """What the network returns."""
        constants = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        images = self.images.to(self.device)
        with self.conditions.applied(self.model, self.number, self.device):
            return functional_call(self.model, {**constants, **buffers, **parameters}, (images,))

    def value(self, output: Any) -> Tensor:
        """The loss of an output; ValueError where it is no scalar."""
        targets = self.targets.to(self.device)
        with self.conditions.applied(self.model, self.number, self.device):
            value = self.loss(output, targets)
        if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
            got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: expected a floating-point scalar, got {got}")
        return value

    def objective(self, parameters: Named) -> Tensor:
        """The loss."""
        return self.value(self.output(parameters))

    def change(self) -> float:
        """How far two runs are apart in the outputs and the loss, relative to them; rounding where nothing changes."""
        with torch.no_grad():
            first, second = (self._run() for _ in range(2))
        return max(_distance(a, b) for a, b in zip(first, second, strict=True))

    def _run(self) -> list[Tensor]:
        """The network's floating-point outputs and the loss."""
        output = self.output({})
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        return [*tensors, self.value(output)]

    def on_device(self) -> Evaluation:
        """The same with its data on the device for good."""
        return replace(self, images=self.images.to(self.device), targets=self.targets.to(self.device))

    def part(self, images: int) -> Evaluation:
        """Of the first ``images`` only; a target without axes is that of any images."""
        targets = self.targets[:images] if self.targets.dim() else self.targets
        return replace(self, images=self.images[:images], targets=targets)

    def continues(self, other: Evaluation) -> bool:
        """Whether its images and targets can stand in one batch with those of ``other``."""
        kinds = [(each.images.shape[1:], each.targets.shape[1:], each.targets.dtype) for each in (self, other)]
        return kinds[0] == kinds[1]


def _distance(a: Tensor, b: Tensor) -> float:
    """‖b - a‖ / ‖a‖ of what is finite, for masks put infinities among outputs."""
    a, b = (t.nan_to_num(0, 0, 0).double() for t in (a, b))
    return float((b - a).norm() / a.norm()) if not torch.equal(a, b) else 0.0


def check_separable(evaluation: Evaluation) -> None:
    """ValueError if the network mixes the images of a batch, so that micro-batches would change the matrix."""
    for name, module in evaluation.model.named_modules():
        mixes = evaluation.conditions.batch_norm == "batch" or not getattr(module, "track_running_stats", True)
        if isinstance(module, _BatchNorm) and mixes:
            raise ValueError(f"micro_batch: {name} takes the statistics of the batch, which must stay whole")


def check_mean(parts: Sequence[Evaluation]) -> None:
    """ValueError unless the loss of all parts together is the mean of theirs, weighted by their images."""
    images, targets = (torch.cat([getattr(part, what) for part in parts]) for what in ("images", "targets"))
    conditions = replace(parts[0].conditions, dropout="off")  # masks differ from part to part
    whole, *each = (
        replace(parts[0], images=x, targets=y, conditions=conditions)
        for x, y in ((images, targets), *((part.images, part.targets) for part in parts))
    )
    with torch.no_grad():
        together, *alone = (float(evaluation.objective({})) for evaluation in (whole, *each))
    mean = sum(value * len(part.images) for value, part in zip(alone, each, strict=True)) / len(images)
    if not math.isclose(together, mean, rel_tol=1e-3, abs_tol=1e-6):
        raise ValueError(
            f"loss: expected a mean over the batch, for its parts add up to the whole; but it is {together:.6g} for "
            f"{len(images)} images, and {mean:.6g} is the mean of its {len(parts)} micro-batches"
        )


def check_mean_of_batches(evaluation: Evaluation) -> None:
    """ValueError if the loss of a batch changes where the batch is there twice, as a sum's does and a mean's does not.

    One forward pass, for the outputs are repeated, not the images: networks may mix these. It does not see what the
    weights in the mean are (of classes, of targets that are not ignored), and nothing where the output is not one
    tensor with a row, and the targets one with an entry, for every image.
    """
    images, targets = len(evaluation.images), evaluation.targets
    with torch.no_grad():
        output = evaluation.output({})
        if not all(isinstance(t, Tensor) and t.dim() > 0 and len(t) == images for t in (output, targets)):
            return
        once = float(evaluation.value(output.clone()))  # a loss may write to it
        twice = float(replace(evaluation, targets=torch.cat([targets] * 2)).value(torch.cat([output] * 2)))
    if not math.isnan(once) and not math.isclose(once, twice, rel_tol=1e-3, abs_tol=1e-6):
        raise ValueError(
            f"loss: expected a mean over the batch, for several batches are weighted by their images; but it is "
            f"{once:.6g} for {images} images, and {twice:.6g} for the same images twice; of a loss of the batch as a "
            "whole (a sum, a contrastive one) make an operator for every batch, and average their products"
        )
