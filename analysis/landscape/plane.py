"""A plane through a network's weights along two random directions as large as the weights, filter by filter.

Networks with ReLU and norms are the same function for many scales of their weights. Li et al., "Visualizing the Loss
Landscape of Neural Nets" (NeurIPS 2018, arXiv 1712.09913, section 4) compare them all the same: every filter of a
direction gets the norm of the filter of the weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.curvature.parameters import Named, Parameters
from alternet.analysis.solvers.vectors import VectorSpace
from alternet.analysis.training.seeding import derived_seed

NORMALIZE = ("filter", "paper")
# Tables of positions as timm, torchvision and transformers call them, whether or not a network lists them.
POSITIONS = re.compile(r"pos(ition)?_embed|rel(ative)?_pos|attention_biases")


@dataclass(frozen=True, eq=False)
class Plane:
    """The points ``weights + x·first + y·second``, flat vectors [n] of the parameters that require a gradient.

    The order of entries is that of ``HessianOperator``, whose products take ``first`` and ``second`` as they are. All
    three are copies in the parameters' dtype on their device.
    """

    parameters: Parameters
    weights: Tensor
    first: Tensor
    second: Tensor

    def at(self, x: float, y: float) -> Named:
        """The parameters of a point by name, in memory of their own; at (0, 0) they are the weights exactly."""
        return self.parameters.split(torch.add(self.weights, self.first, alpha=x).add_(self.second, alpha=y))

    def squared_norms(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """‖·‖² of every parameter at the points x: [columns] by y: [rows] -> float64 [parameters, rows, columns].

        A quadratic form of the inner products of weights and directions: no point of the plane is made for it.
        """
        grid_x, grid_y = np.meshgrid(x, y)
        place = np.stack([np.ones_like(grid_x), grid_x, grid_y])
        squares = np.einsum("aij,pab,bij->pij", place, self._inner_products(), place, optimize=True)
        return np.maximum(squares, 0.0)  # of rounding where the plane meets 0

    def _inner_products(self) -> np.ndarray:
        """Of weights, first and second with each other: float64 [parameters, 3, 3]."""
        split = [self.parameters.split(vector).values() for vector in (self.weights, self.first, self.second)]
        found = []
        for parts in zip(*split, strict=True):
            rows = torch.stack([part.flatten() for part in parts])
            found.append(VectorSpace(rows.shape[1], rows.dtype, rows.device).products(rows, rows).cpu())
        return torch.stack(found).numpy()


def random_plane(model: nn.Module, *, seed: int = 0, normalize: str = "filter") -> Plane:
    """The plane along two directions with normal entries, drawn on the CPU: the same on every device.

    A direction is 0 in parameters of one axis or none (biases, norms) and in position embeddings: those in whose name
    ``POSITIONS`` is found, and all that ``no_weight_decay()`` of timm's networks lists, class tokens and scales among
    them. These parameters are the same everywhere on the plane.

    Args:
        model: any module whose parameters that require a gradient are of one dtype, float32 or float64, on one device.
        seed: two networks with parameters of the same shapes have the same directions before they are normalised.
        normalize: "filter" gives every filter (row ``direction[i]`` of a parameter: what makes one output) the norm of
            that of the weights, as Li et al. do; "paper" takes norms over the first axis instead, as the authors of
            figure 1 do in their code, so that the weights from each input to all outputs count as a filter.

    Raises:
        TypeError: parameters are of several dtypes, or of another than float32 and float64.
        ValueError: ``normalize`` is unknown; no parameters that require a gradient, or on several devices.
    """
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize: expected one of {list(NORMALIZE)}, got {normalize!r}")
    parameters = Parameters(model, None)
    fixed = _without_decay(model)
    first, second = (_direction(parameters, fixed, normalize, derived_seed(seed, "plane", i)) for i in range(2))
    weights = parameters.join({name: tensor.detach() for name, tensor in parameters.tensors.items()})
    return Plane(parameters, weights, first, second)


def _without_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that the networks in ``model`` list as to be trained without weight decay."""
    listing: list[tuple[str, Any]] = [(path, getattr(m, "no_weight_decay", None)) for path, m in model.named_modules()]
    return {f"{path}.{name}".lstrip(".") for path, names in listing if callable(names) for name in names()}


def _direction(parameters: Parameters, fixed: set[str], normalize: str, seed: int) -> Tensor:
    space = VectorSpace(parameters.size, parameters.dtype, parameters.device)
    direction = space.normal(torch.Generator().manual_seed(seed))
    for name, part in parameters.split(direction).items():  # views
        weight = parameters.tensors[name].detach()
        if weight.dim() <= 1 or name in fixed or POSITIONS.search(name):
            part.zero_()
        else:
            axes = tuple(range(1, weight.dim())) if normalize == "filter" else (0,)
            part.mul_(_norms(weight, axes) / _norms(part, axes).clamp_min(torch.finfo(torch.float64).tiny))
    return direction


def _norms(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(tensor, dim=axes, keepdim=True, dtype=torch.float64)
