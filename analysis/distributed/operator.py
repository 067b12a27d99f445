"""A symmetric matrix whose images, and whose vectors, are spread over ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.curvature.evaluation import Loss, check_mean_of_batches
from alternet.analysis.curvature.micro_batches import Batch
from alternet.analysis.curvature.operator import CurvatureOperator, add_decay
from alternet.analysis.curvature.symmetry import Symmetry, check_network, check_symmetry
from alternet.analysis.distributed.ranks import Ranks
from alternet.analysis.distributed.shares import check_cut, own_share
from alternet.analysis.distributed.space import ShardedSpace


class ShardedOperator:
    """The mean over all ranks' images of the matrices that they have for their own.

    ``op @ part`` multiplies this rank's slice [length] of a vector into this rank's slice of the product: the slices
    are gathered, each rank multiplies by its own matrix, and the products are added up and cut. Solvers take it as any
    operator and work in ``op.space``; what they return of vectors is this rank's slice, ``op.space.gather`` makes it
    whole. Every method is collective.

    Args:
        local: the matrix of this rank's images, a mean over them, without weight decay; [n, n] on every rank.
        images: how many images that is.
        weight_decay: adds ½·weight_decay·‖w‖², exactly.
        group: of ``torch.distributed``; by default all processes.

    Raises:
        ValueError: the ranks differ in the matrix's size or dtype or in the weight decay; no images.
    """

    def __init__(
        self,
        local: CurvatureOperator,
        images: int,
        *,
        weight_decay: float = 0.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if images < 1:
            raise ValueError(f"images: expected at least 1, got {images}")
        ranks = Ranks(group)
        ranks.agree("local", (tuple(local.shape), str(local.dtype), local.device.type))
        ranks.agree("weight_decay", weight_decay)
        self.shape, self.dtype, self.device = tuple(local.shape), local.dtype, local.device
        self.space = ShardedSpace(self.shape[0], self.dtype, self.device, ranks)
        self.weight_decay = weight_decay
        self.images = sum(ranks.objects(images))
        self._local, self._share = local, images / self.images

    def __matmul__(self, part: Tensor) -> Tensor:
        """This rank's slice [length] of the product with the vector of which it has the slice ``part``: [length]."""
        self._check(part, 1)
        product = self._local @ self.space.gather(part)
        return add_decay(self.space.reduce_scatter(product.mul_(self._share)), part, self.weight_decay)

    def matmat(self, parts: Tensor) -> Tensor:
        """Slices of the products, [length, m], with the vectors of which ``parts``: [length, m] has the slices."""
        self._check(parts, 2)
        if parts.shape[1] == 0:
            return torch.zeros_like(parts)
        whole = torch.stack([self.space.gather(part) for part in parts.t()], dim=1)
        products = self._local.matmat(whole).mul_(self._share)
        own = torch.stack([self.space.reduce_scatter(product) for product in products.t()], dim=1)
        return add_decay(own, parts, self.weight_decay)

    def named(self, part: Tensor) -> dict[str, Tensor]:
        """The whole vector of which this rank has the slice ``part``: [length], by parameter name."""
        self._check(part, 1)
        return self._local.named(self.space.gather(part))

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """This rank's slice [length] of one tensor for every selected parameter; the inverse of ``named``."""
        return self.space.part(self._local.flatten(tensors)).clone()

    def under_autocast(self, dtype: torch.dtype = torch.bfloat16) -> ShardedOperator:
        """The same matrix by low-precision products, see ``CurvatureOperator.under_autocast``."""
        low = copy.copy(self)
        low._local = self._local.under_autocast(dtype)
        return low

    def check(self, seed: int = 0) -> Symmetry:
        """Whether the whole is a fixed, symmetric matrix, see ``CurvatureOperator.check``."""
        tolerance = self._local.tolerance()
        found = check_symmetry(self, tolerance=tolerance, seed=seed)
        for change in self.space.ranks.objects(self._local.network_change()):  # what one rank sees, all raise
            check_network(change, tolerance=tolerance)
        return found

    def _check(self, parts: Tensor, axes: int) -> None:
        expected = (self.space.length, "m")[:axes]
        if not isinstance(parts, Tensor):
            raise TypeError(f"vector: expected a tensor {list(expected)}, got {type(parts).__name__}")
        if parts.dim() != axes or parts.shape[0] != self.space.length:
            raise ValueError(
                f"vector: expected {list(expected)}, the slice of rank {self.space.ranks.rank}, got {list(parts.shape)}"
            )


def distributed(
    kind: Callable[..., CurvatureOperator],
    model: nn.Module,
    loss: Loss,
    data: Batch | Iterable[Batch],
    *,
    weight_decay: float = 0.0,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> ShardedOperator:
    """``kind(model, loss, data, …)`` with the images dealt to the ranks: the same matrix, whatever their number.

    Args:
        kind: ``HessianOperator`` or ``GaussNewtonOperator``; ``options`` are its further arguments.
        model: the same weights on every rank, which is checked.
        loss: a mean over the batch.
        data: the same on every rank: one batch, which is cut, or an iterable of batches, which are dealt whole where
            there are as many as ranks. A sequence is only read where a rank has its own, with random numbers by
            ``seed`` and the batch's number; anything else is drawn whole, as ``kind`` draws it.

    Raises:
        ValueError: weights that differ between ranks; fewer images than ranks; a loss that is no mean over images; a
            batch that is cut though its network mixes images; dropout on several ranks; see also ``kind``.
    """
    ranks = Ranks(group)
    ranks.agree("model: checksum of the weights", checksum([*model.parameters(), *model.buffers()]))
    if options.get("dropout", "off") != "off" and ranks.size > 1:
        raise ValueError(
            f"dropout: masks would depend on the number of ranks; expected 'off', got {options['dropout']!r}"
        )
    share = own_share(data, ranks, options.get("seed", 0))
    local = kind(model, loss, share.batches, **options)
    if share.cut is not None:
        check_cut(local._evaluations[0], share.cut)
    elif ranks.size > 1:
        check_mean_of_batches(local._evaluations[0])
    return ShardedOperator(local, share.images, weight_decay=weight_decay, group=group)
