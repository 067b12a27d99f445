"""The Hilbert-Schmidt independence criterion (HSIC) of two sets of features of the same images, without bias.

Song et al., "Feature Selection via Dependence Maximization", JMLR 2012, equation 4, of Gram matrices K and L [n, n]
whose diagonals are set to 0:

    HSIC_1 = (tr(K L) + 1ᵀK1 1ᵀL1 / ((n - 1)(n - 2)) - 2 1ᵀK L1 / (n - 2)) / (n (n - 3))

It is the inner product of the two matrices, each centred as Székely & Rizzo (Annals of Statistics 2014) do it without
bias, over n (n - 3): centred once, all pairs of many matrices are one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 4  # images: of three the estimate is 0 / 0
PIECE = 2**22  # numbers that are made float64 at a time
ROUNDING = 1e-13  # of a Gram matrix: where centring leaves no more, it leaves rounding errors alone


def gram_matrix(maps: Tensor) -> Tensor:
    """Inner products of the features of every two images: [B, C, H, W] -> float64 [B, B], on the maps' device.

    Products are float64 too, of some channels at a time, so that no whole copy of the maps is made: centring takes the
    mean features out, which may be most of them, and what is left of float32 products was off by up to 1e-3 in an
    untrained ResNet-50.
    """
    images, channels = maps.shape[:2]
    products = torch.zeros(images, images, dtype=torch.float64, device=maps.device)
    for part in maps.split(max(1, PIECE * channels // maps.numel()), dim=1):
        features = part.double().flatten(1)
        products.addmm_(features, features.T)
    return products


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """HSIC_1 of every pair of symmetric Gram matrices, [P, B, B] and [Q, B, B] -> float64 [P, Q].

    0 where features differ between images by no more than rounding.

    Raises:
        ValueError: fewer than four images; matrices of other shapes.
    """
    images = first.shape[-1]
    if first.shape[1:] != (images, images) or second.shape[1:] != (images, images):
        found = f"{list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"first, second: got {found}, expected [P, B, B] and [Q, B, B]")
    if images < LEAST:
        raise ValueError(f"first, second: got Gram matrices of {images} images, expected at least {LEAST}")
    return _centred(first).flatten(1) @ _centred(second).flatten(1).T / (images * (images - 3))


def _centred(grams: Tensor) -> Tensor:
    """Diagonals 0, and every row and column of the rest adds up to 0."""
    images = grams.shape[-1]
    others = _without_diagonal(grams.double())
    rows = others.sum(-1, keepdim=True) / (images - 2)
    whole = others.sum((-2, -1), keepdim=True) / ((images - 1) * (images - 2))
    centred = _without_diagonal(others - rows - rows.mT + whole)
    rounding = centred.norm(dim=(-2, -1), keepdim=True) <= ROUNDING * grams.double().norm(dim=(-2, -1), keepdim=True)
    return centred.masked_fill(rounding, 0)


def _without_diagonal(matrices: Tensor) -> Tensor:
    return matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
