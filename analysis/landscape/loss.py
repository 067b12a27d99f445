"""Figure 1: the loss of a trained network on a grid of points of a plane through its weights.

Park & Kim (ICLR 2022, arXiv 2202.06709) show NLL + L2 of augmented training images on [-1, 1]² along two random
directions, 21 x 21 points, in eval mode: BatchNorm keeps the running statistics of the trained network everywhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from alternet.analysis.checksum import checksum, text_checksum
from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.curvature.evaluation import Conditions, Evaluation, check_mean_of_batches
from alternet.analysis.curvature.micro_batches import micro_batches
from alternet.analysis.curvature.parameters import Named
from alternet.analysis.distributed.dealing import Row, check_data, finish
from alternet.analysis.features.fingerprint import fingerprint
from alternet.analysis.landscape.plane import Plane, random_plane
from alternet.analysis.landscape.result import L2_FORMS, LandscapeResult, json_values
from alternet.analysis.modes import evaluating
from alternet.analysis.studies.journal import Journal, Kind
from alternet.analysis.studies.spectra import check_loss

KIND = "alternet loss landscape of batches"


def loss_landscape(
    model: nn.Module,
    batches: Any,
    *,
    network: str,
    weight_decay: float = 0.0,
    size: int = 21,
    extent: float = 1.0,
    normalize: str = "filter",
    l2: str = "squared",
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LandscapeResult:
    """``loss(model(images), targets)`` + L2 on ``size`` x ``size`` points of a plane through the weights of ``model``.

    Every batch is read once, and all points are evaluated on it: however many there are, one is in memory, and they are
    augmented once. The weights of a point are handed to the network, never written into it.

    Args:
        model: measured in eval mode, given back as it came; see ``random_plane`` for which parameters move.
        batches: has ``len`` and yields ``(images, targets)``; the same in every iteration. Floating-point tensors take
            the model's dtype. Every image weighs the same, also in a smaller last batch.
        network: the name that results and figures show.
        weight_decay: of the L2 term over all parameters that require a gradient.
        size: points along each direction, odd: the one in the middle is the network itself.
        extent: the grid is [-extent, extent]², in units of the directions.
        normalize: "filter" or "paper", of the directions; see ``random_plane``.
        l2: "squared" or "paper"; see ``LandscapeResult``, which holds what either needs.
        loss: ``loss(output, targets)``, a mean over the batch. The default takes classes or probabilities.
        seed: of the directions.
        out: a ``.jsonl`` file that gets one line with the grid of losses per finished batch. Where it exists, the pass
            goes on behind the batches it holds, which are read again to see that they and their loss are the same, and
            ends with the numbers of a pass that was never stopped; killed, it loses the batch in hand at most.
        progress: called with (evaluations done, evaluations in all), one for every point and batch, at the start and
            after every row of the grid.

    Raises:
        FloatingPointError: the loss of the network itself is not finite. Elsewhere on the plane that is a result: NaN.
        TypeError: parameters are of several dtypes, or of another than float32 and float64.
        ValueError: an argument out of range; no batches; a loss that is no scalar or, over several batches, no mean; an
            ``out`` that is broken or belongs to another network, plane, loss or other batches.
    """
    _check(weight_decay, size, extent, l2)
    plane = random_plane(model, seed=seed, normalize=normalize)
    steps = size // 2
    line = extent * np.arange(-steps, steps + 1) / steps
    config = {
        **fingerprint(model),
        "names": text_checksum("\n".join(plane.parameters.tensors)),
        "loss": getattr(loss, "__name__", repr(loss)),
        "normalize": normalize,
        "seed": seed,
        "size": size,
        "extent": extent,
        "batches": len(batches),
    }
    columns: dict[str, Kind] = {"data": str, "images": int, "centre": float, "losses": (list, size)}
    journal = Journal(out, KIND, config, columns)

    def solve(number: int, batch: tuple[Tensor, Tensor], known: Row | None) -> Row:
        data = checksum(batch)
        if known is not None:
            check_data(known, data, journal, number)
        (piece,) = micro_batches(batch, None, plane.parameters.dtype)
        evaluation = Evaluation(model, loss, *piece, plane.parameters.device, Conditions()).on_device()
        with evaluating(model), plain_arithmetic(plane.parameters.device), torch.no_grad():
            centre = _centre(evaluation, number)
            if known is not None:
                check_loss(known["centre"], centre, f"out: {out} holds batch {number} with another loss")
                return known
            if len(batches) > 1:
                check_mean_of_batches(evaluation)
            losses = []
            for row, y in enumerate(line):
                if row:  # else ``finish`` has said so
                    progress((number * size + row) * size, len(batches) * size**2)
                losses.append(_losses(evaluation, plane, line, y))
        return {"data": data, "images": len(batch[0]), "centre": centre, "losses": json_values(np.array(losses))}

    finish(journal, batches, solve, lambda done, total: progress(done * size**2, total * size**2))
    squared = plane.squared_norms(line, line)
    images = np.array([row["images"] for row in journal.rows])
    losses = np.array([row["losses"] for row in journal.rows], dtype=float)  # None becomes NaN
    return LandscapeResult(
        network=network,
        images=int(images.sum()),
        normalize=normalize,
        seed=seed,
        weight_decay=weight_decay,
        l2_form=l2,
        x=line,
        y=line,
        nll=np.tensordot(images, losses, 1) / images.sum(),
        squared_norm=squared.sum(0),
        sum_of_norms=np.sqrt(squared).sum(0),
    )


def _centre(evaluation: Evaluation, number: int) -> float:
    """The loss of the network as it is."""
    value = float(evaluation.objective({}))
    if not math.isfinite(value):
        raise FloatingPointError(f"batch {number}: the loss is {value} (diverged weights, bad images?)")
    return value


def _losses(evaluation: Evaluation, plane: Plane, line: np.ndarray, y: float) -> list[float]:
    """[size], along one row of the grid."""
    return torch.stack([_loss(evaluation, plane.at(x, y)) for x in line]).tolist()


def _loss(evaluation: Evaluation, parameters: Named) -> Tensor:
    """``evaluation.objective`` without what only derivatives need, which takes as long as a small network itself."""
    model = evaluation.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a network may write to them
    output = functional_call(model, {**buffers, **parameters}, (evaluation.images,))
    return evaluation.loss(output, evaluation.targets)


def _check(weight_decay: float, size: int, extent: float, l2: str) -> None:
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay: got {weight_decay}, expected a finite number, 0 or more")
    if size < 3 or size % 2 == 0:
        raise ValueError(f"size: got {size}, expected an odd number, 3 or more: the network is the point in the middle")
    if not 0 < extent < math.inf:
        raise ValueError(f"extent: got {extent}, expected a finite number, more than 0")
    if l2 not in L2_FORMS:
        raise ValueError(f"l2: expected one of {list(L2_FORMS)}, got {l2!r}")
