"""What is compared: products of float32 matrices as a ViT-Ti's layers and their gradients are, in tiles and by PyTorch.

Several in a row, as in a backward pass. Where the processor has no AMX both are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from alternet.kernels import tile_products

from . import suite

REPEATS = 10
WIDTH, HIDDEN, QKV = 192, 768, 576  # of a ViT-Ti
TOKENS = {"4 x 197 tokens": 788, "16 x 257 tokens": 4112}
LAYERS = {"attention's output": (WIDTH, WIDTH), "attention's inputs": (WIDTH, QKV), "MLP": (WIDTH, HIDDEN)}
CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {"alternet": tile_products, "PyTorch": nullcontext}

# of x [tokens, inputs], W [outputs, inputs] and the cotangent g [tokens, outputs]
TASKS: dict[str, Callable[..., torch.Tensor]] = {
    "x W^T": lambda x, w, g: torch.mm(x, w.t()),
    "g W": lambda x, w, g: torch.mm(g, w),
    "g^T x": lambda x, w, g: torch.mm(g.t(), x),
}


class Cell(suite.Cell):
    """One measurement: a layer at a number of tokens, a product and an implementation."""

    def prepare(self) -> Callable[[], object]:
        layer, tokens = self.shape.split(", ")
        inputs, outputs = LAYERS[layer]
        generator = torch.Generator().manual_seed(0)
        shapes = ((TOKENS[tokens], inputs), (outputs, inputs), (TOKENS[tokens], outputs))
        x, w, g = (torch.randn(*shape, generator=generator) for shape in shapes)
        product, context = TASKS[self.task], CONTEXTS[self.implementation]

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
        for task in TASKS
        for name in CONTEXTS
    ]


SUITE = suite.Suite(shapes=f"layer, {REPEATS} products", peers={"PyTorch": "PyTorch"}, cells=cells)
