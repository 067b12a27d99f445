"""Memory and traffic of a distributed Lanczos run on paper: ``python -m alternet.analysis.distributed.footprint``.

All in bytes and for one rank, in float32, for a ViT (Dosovitskiy et al. 2021) of which every parameter is selected and
whose gradient's graph is kept (engine "graph"). The tests hold every formula against tensors counted in small runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from alternet.analysis.solvers.vectors import Basis

FLOAT = 4
BESIDE = 2  # vectors of a Lanczos step outside the basis: the next one and its product
LINK = 50e9  # bytes per second: one 400 Gbit/s link per GPU


@dataclass(frozen=True)
class ViT:
    """timm's VisionTransformer with a class token, biases and an MLP four times as wide."""

    width: int
    depth: int
    heads: int
    image_size: int = 224
    patch_size: int = 16
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """N: patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def parameters(self) -> int:
        """n: embedding, class token and positions; 12 D² + 13 D for every block; norm and head."""
        width = self.width
        embedding = width * (3 * self.patch_size**2 + 1) + width * (self.tokens + 1)
        return embedding + self.depth * (12 * width**2 + 13 * width) + 2 * width + self.classes * (width + 1)

    @property
    def graph(self) -> int:
        """What the graph of one image's gradient keeps.

        In D floats a token, every block keeps 33: 17 of the forward pass and 16 that the cotangents add. Its norms keep
        4 floats beside, attention one log-sum-exp a head.
        """
        block = 33 * self.width + self.heads + 4
        ends = 4 * self.width + 2
        return FLOAT * (self.tokens * (self.depth * block + ends) + 3 * self.image_size**2 + 3 * self.classes)


@dataclass(frozen=True)
class Footprint:
    """One rank of ``ranks`` with ``images`` of its own and a Krylov basis of ``vectors``."""

    network: ViT
    ranks: int
    images: int
    vectors: int

    @property
    def slice(self) -> int:
        """A rank's part of one vector: 4 ⌈n / ranks⌉."""
        return FLOAT * -(-self.network.parameters // self.ranks)

    @property
    def weights(self) -> int:
        """4 n, and as much for the gradient whose graph is kept."""
        return 2 * FLOAT * self.network.parameters

    @property
    def graph(self) -> int:
        """What the gradient's graph keeps of this rank's images."""
        return self.images * self.network.graph

    @property
    def basis(self) -> int:
        """Slices of the basis, whose storage grows by several vectors at once, and of two vectors beside it."""
        rows = -(-self.vectors // Basis.ROWS) * Basis.ROWS
        return (rows + BESIDE) * self.slice

    @property
    def product(self) -> int:
        """At the peak of a product: the gathered vector, and its image by parameter and as one vector."""
        return self.ranks * self.slice + 2 * FLOAT * self.network.parameters

    @property
    def memory(self) -> int:
        """All of it."""
        return self.weights + self.graph + self.basis + self.product

    @property
    def traffic(self) -> int:
        """Sent (and received) for one product: all-gather and reduce-scatter, ranks - 1 slices each.

        gloo, which is meant for tests, adds up by all-reduce: twice as much for the second.
        """
        return 2 * (self.ranks - 1) * self.slice


NETWORKS = {"ViT-B/16": ViT(768, 12, 12), "ViT-L/16": ViT(1024, 24, 16)}


def table(images: int = 16, vectors: int = 100) -> str:
    """Markdown: ViT-B and ViT-L on 8 to 64 GPUs."""
    columns = "network, GPUs, weights and gradient, graph, basis, product, in all, sent per product, which takes"
    lines = [_row(columns.split(", ")), "|" + "---|" * len(columns.split(", "))]
    for name, network in NETWORKS.items():
        for ranks in (1, 8, 16, 32, 64):
            paper = Footprint(network, ranks, images, vectors)
            sizes = (paper.weights, paper.graph, paper.basis, paper.product, paper.memory, paper.traffic)
            cells = [
                name,
                str(ranks),
                *(f"{size / 2**30:.2f}" for size in sizes),
                f"{paper.traffic / LINK * 1e3:.0f} ms",
            ]
            lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table())
