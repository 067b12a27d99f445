"""What is compared: products of matrices as a ViT-Ti's layers and their gradients are, in tiles and by PyTorch.

Of float32, several in a row, as in a backward pass; of bfloat16 the two products to a weight that a second derivative
adds up, which PyTorch makes one by one. Where the processor has no AMX all are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from alternet.kernels import tile_products
from alternet.kernels.linear.weight_product import weight_product

from . import suite
from .measure import has_bfloat16

REPEATS = 10
WIDTH, HIDDEN, QKV = 192, 768, 576  # of a ViT-Ti
TOKENS = {"4 x 197 tokens": 788, "16 x 257 tokens": 4112}
LAYERS = {"attention's output": (WIDTH, WIDTH), "attention's inputs": (WIDTH, QKV), "MLP": (WIDTH, HIDDEN)}
CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {"alternet": tile_products, "PyTorch": nullcontext}

BFLOAT16 = "g^T x twice, added up, bfloat16"

# of x [tokens, inputs], W [outputs, inputs] and the cotangent g [tokens, outputs]
TASKS: dict[str, Callable[..., torch.Tensor]] = {
    "x W^T": lambda x, w, g: torch.mm(x, w.t()),
    "g W": lambda x, w, g: torch.mm(g, w),
    "g^T x": lambda x, w, g: torch.mm(g.t(), x),
}


def autograds_sum(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch.mm(g.t(), x) + torch.mm(g.t(), x)


def one_sum(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    total = weight_product([(g, x), (g, x)])
    return autograds_sum(x, w, g) if total is None else total


class Cell(suite.Cell):
    """One measurement: a layer at a number of tokens, a product and an implementation."""

    def prepare(self) -> Callable[[], object]:
        layer, tokens = self.shape.split(", ")
        inputs, outputs = LAYERS[layer]
        generator = torch.Generator().manual_seed(0)
        shapes = ((TOKENS[tokens], inputs), (outputs, inputs), (TOKENS[tokens], outputs))
        low = self.task == BFLOAT16
        dtype = torch.bfloat16 if low else torch.float32
        x, w, g = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
        context = CONTEXTS[self.implementation]
        sums = {"alternet": one_sum, "PyTorch": autograds_sum}
        product = sums[self.implementation] if low else TASKS[self.task]

        def work() -> None:
            with context():
                for _ in range(REPEATS):
                    product(x, w, g)

        return work


def cells() -> list[Cell]:
    return [
        Cell(f"{layer}, {tokens}", task, name)
        for layer in LAYERS
        for tokens in TOKENS
        for task in (*TASKS, *[BFLOAT16] * has_bfloat16())
        for name in CONTEXTS
    ]


SUITE = suite.Suite(shapes=f"layer, {REPEATS} products", peers={"PyTorch": "PyTorch"}, cells=cells)
