"""What the tools are given: a network, one mini-batch, and the eigenvalues they should find."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import scipy.sparse.linalg
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet.analysis.training.data import as_tensor, load_data

FILES = Path("build/benchmarks")  # networks and mini-batches, made once by the first process that needs them


class Problem(NamedTuple):
    """A timm network, trained for ``steps`` on MNIST in ``pixels`` x ``pixels``, and a mini-batch of ``images``.

    Some training makes the spectrum what people look at: a few eigenvalues that stand out, of both signs.
    """

    title: str
    model: str
    pixels: int
    images: int
    steps: int

    def make(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
        """The network in eval mode, images [images, 3, pixels, pixels] and classes [images], the same in every call."""
        path = FILES / f"{self.model}-{self.pixels}-{self.images}-{self.steps}.safetensors"
        if not path.exists():
            self._train(path)
        tensors = load_file(path)
        images, targets = tensors.pop("images"), tensors.pop("targets")
        model = timm.create_model(self.model, num_classes=10).eval()
        model.load_state_dict(tensors)
        return model.to(dtype), images.to(dtype), targets

    def _train(self, path: Path) -> None:
        torch.manual_seed(0)
        model = timm.create_model(self.model, num_classes=10).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        for images, targets in islice(self._batches(16), self.steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), targets).backward()
            optimizer.step()
        images, targets = next(self._batches(self.images))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({**model.state_dict(), "images": images, "targets": targets}, partial)
        partial.replace(path)

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        data = load_data("mnist5k")
        generator = torch.Generator().manual_seed(0)
        while True:
            chosen = torch.randint(len(data.train), (size,), generator=generator).tolist()
            pictures, targets = zip(*(data.train[i] for i in chosen), strict=True)
            small = as_tensor(pictures, data)
            yield F.interpolate(small, size=self.pixels, mode="bilinear"), torch.tensor(targets)


PROBLEMS = {
    "vit": Problem("ViT-Ti, 224 px, batch 4", "vit_tiny_patch16_224", 224, 4, steps=40),
    "resnet": Problem("ResNet-18, 64 px, batch 16", "resnet18", 64, 16, steps=100),
    "vit16": Problem("ViT-Ti, 224 px, batch 16", "vit_tiny_patch16_224", 224, 16, steps=40),
    "toy": Problem("a toy", "test_vit", 160, 2, steps=2),
}


class KeptGraph:
    """Double backward as PyTorch's manual has it: no part of alternet. Counts its products."""

    def __init__(self, model: nn.Module, images: Tensor, targets: Tensor) -> None:
        self.products = 0
        self._parameters = list(model.parameters())
        with sdpa_kernel(SDPBackend.MATH):  # the only backend with a second derivative
            loss = F.cross_entropy(model(images), targets)
            self._gradient = torch.autograd.grad(loss, self._parameters, create_graph=True)

    def __call__(self, vector: Tensor) -> Tensor:
        """vector: [n] -> [n]."""
        self.products += 1
        sizes = [parameter.numel() for parameter in self._parameters]
        parts = vector.split(sizes)
        direction = [part.view_as(parameter) for part, parameter in zip(parts, self._parameters, strict=True)]
        product = torch.autograd.grad(self._gradient, self._parameters, direction, retain_graph=True)
        return torch.cat([part.reshape(-1) for part in product])

    def scipy(self) -> scipy.sparse.linalg.LinearOperator:
        n = sum(parameter.numel() for parameter in self._parameters)
        dtype = self._parameters[0].dtype

        def matvec(vector: object) -> object:
            return self(torch.as_tensor(vector, dtype=dtype).ravel()).numpy()

        return scipy.sparse.linalg.LinearOperator((n, n), matvec=matvec, dtype=str(dtype).removeprefix("torch."))


def true_eigenvalues(problem: Problem, k: int) -> Tensor:
    """The k eigenvalues of largest magnitude [k], by falling magnitude: float64 double backward and ARPACK to 1e-6."""
    operator = KeptGraph(*problem.make(torch.float64)).scipy()
    start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    values = scipy.sparse.linalg.eigsh(operator, k, which="LM", tol=1e-6, v0=start, return_eigenvectors=False)
    return by_magnitude(torch.as_tensor(values))


def by_magnitude(values: Tensor) -> Tensor:
    return values[values.abs().argsort(descending=True)]
