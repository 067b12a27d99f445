"""What is compared: Hessian-vector products of a whole ViT-Ti, as it is and by this library; several at once.

By this library: the network runs inside ``second_order()``, derivatives are taken inside ``tile_products()``.

ViT-Ti for pictures of 32 pixels, patches of 2 (257 tokens), 16 pictures; and as it is, 4 pictures of 224 pixels, as in
``benchmarks.hessian``. *graph kept* is what a Lanczos solver pays for every vector; *from the start* builds the
gradient's graph too, and its memory is that of the whole study.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet.kernels import attention, second_order, tile_products

from . import suite
from .attention import eager
from .measure import has_bfloat16

VIT = "ViT-Ti, 32 px, patch 2, batch 16"
VIT_224 = "ViT-Ti, 224 px, batch 4"
NETWORKS = {VIT: ({"img_size": 32, "patch_size": 2}, 16), VIT_224: ({"img_size": 224}, 4)}
HEADS = "attention 48 x 257 x 64"
TANGENTS = 8

CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {
    "alternet": second_order,
    "eager": lambda: sdpa_kernel(SDPBackend.MATH),
}
PRODUCTS: dict[str, Callable[[], AbstractContextManager]] = {"alternet": tile_products, "eager": nullcontext}


def vit(network: str, implementation: str, dtype: torch.dtype) -> tuple[Callable[[], tuple[Tensor, ...]], list, list]:
    """The gradient with its graph, as a function; the parameters; a direction."""
    torch.manual_seed(0)
    sizes, batch = NETWORKS[network]
    model = timm.create_model("vit_tiny_patch16_224", **sizes, num_classes=100).eval()
    images, targets = torch.randn(batch, 3, sizes["img_size"], sizes["img_size"]), torch.arange(batch)
    parameters = list(model.parameters())

    def gradient() -> tuple[Tensor, ...]:
        lower = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
        with CONTEXTS[implementation](), lower:
            loss = F.cross_entropy(model(images), targets)
        with PRODUCTS[implementation]():
            return torch.autograd.grad(loss, parameters, create_graph=True)

    return gradient, parameters, [torch.randn_like(p) for p in parameters]


def kept(implementation: str, dtype: torch.dtype = torch.float32, network: str = VIT) -> Callable[[], object]:
    gradient, parameters, direction = vit(network, implementation, dtype)
    slopes = gradient()

    def product() -> tuple[Tensor, ...]:
        with PRODUCTS[implementation]():
            return torch.autograd.grad(slopes, parameters, direction, retain_graph=True)

    return product


def whole(implementation: str) -> Callable[[], object]:
    gradient, parameters, direction = vit(VIT, implementation, torch.float32)

    def product() -> tuple[Tensor, ...]:
        slopes = gradient()
        with PRODUCTS[implementation]():
            return torch.autograd.grad(slopes, parameters, direction)

    return product


def tangents(implementation: str) -> Callable[[], object]:
    """Products with eight vectors: at once by vmap, or one after the other."""
    generator = torch.Generator().manual_seed(0)
    x = tuple(torch.randn(1, 48, 257, 64, generator=generator) for _ in range(3))
    t = tuple(torch.randn(TANGENTS, *q.shape, generator=generator) for q in x)
    f = eager if implementation == "eager" else attention
    first = grad(lambda *x: f(*x).square().sum(), argnums=(0, 1, 2))
    product = lambda *t: jvp(first, x, t)[1]  # noqa: E731
    if implementation == "singles":
        return lambda: [product(*(each[i] for each in t)) for i in range(TANGENTS)]
    return lambda: vmap(product)(*t)


ROWS: dict[tuple[str, str], tuple[Callable[[str], Callable[[], object]], tuple[str, ...]]] = {
    (VIT, "product, graph kept"): (kept, ("alternet", "eager")),
    (VIT, "product, graph kept, bfloat16 autocast"): (lambda name: kept(name, torch.bfloat16), ("alternet", "eager")),
    (VIT, "product from the start"): (whole, ("alternet", "eager")),
    (VIT_224, "product, graph kept"): (lambda name: kept(name, network=VIT_224), ("alternet", "eager")),
    (HEADS, f"jvp(grad), {TANGENTS} tangents by vmap"): (tangents, ("alternet", "eager", "singles")),
}


class Cell(suite.Cell):
    """One measurement: a network or an operator, a task and an implementation."""

    def prepare(self) -> Callable[[], object]:
        return ROWS[self.shape, self.task][0](self.implementation)


def cells() -> list[Cell]:
    rows = {row: names for row, (_, names) in ROWS.items() if has_bfloat16() or "bfloat16" not in row[1]}
    return [Cell(*row, name) for row, names in rows.items() for name in names]


SUITE = suite.Suite(
    shapes="network or operator",
    peers={"eager": "eager", "singles": f"{TANGENTS} single products"},
    cells=cells,
)
