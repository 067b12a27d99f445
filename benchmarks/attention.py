"""What is compared: attention's derivatives, this library against PyTorch, on one set of shapes.

A *task* is what a user runs, from the inputs to the last number: nothing is kept from an earlier run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp

from alternet.kernels import attention

from .suite import Suite

Attention = Callable[..., Tensor]  # of query, key, value, and what else is differentiated


def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The fastest plain composition we know: the scale goes into the small factor."""
    return ((query * query.shape[-1] ** -0.5) @ key.mT).softmax(-1) @ value


IMPLEMENTATIONS: dict[str, Attention] = {
    "alternet": attention,
    "eager": eager,
    "sdpa": F.scaled_dot_product_attention,
}


def forward(f: Attention, x: tuple[Tensor, ...]) -> object:
    with torch.no_grad():
        return f(*x)


def forward_backward(f: Attention, x: tuple[Tensor, ...]) -> object:
    leaves = [t.detach().requires_grad_() for t in x]
    return torch.autograd.grad(f(*leaves), leaves, x[0])


def double_backward(f: Attention, x: tuple[Tensor, ...]) -> object:
    """A Hessian-vector product as PyHessian and most others take it: gradient with a graph, then its gradient."""
    leaves = [t.detach().requires_grad_() for t in x]
    loss = f(*leaves).square().sum()
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, x)


def jvp_grad(f: Attention, x: tuple[Tensor, ...]) -> object:
    """A Hessian-vector product by forward over reverse."""
    gradient = grad(lambda *x: f(*x).square().sum(), argnums=tuple(range(len(x))))
    return jvp(gradient, x, x)


TASKS = {
    "forward": forward,
    "forward + backward": forward_backward,
    "double backward": double_backward,
    "jvp(grad)": jvp_grad,
}
FIRST_ORDER = ("forward", "forward + backward")  # all that PyTorch's fused attention can do

SHAPES = {  # batch times heads, tokens, head size
    "ViT-Ti at 32 px: 48 x 257 x 64": (48, 257, 64),
    "windows of 7: 256 x 49 x 32": (256, 49, 32),
    "long: 4 x 4096 x 64": (4, 4096, 64),
}


@dataclass(frozen=True)
class Cell:
    """One measurement: a shape, a task and an implementation."""

    shape: str
    task: str
    implementation: str

    def prepare(self) -> Callable[[], object]:
        """The work as a function without arguments, its inputs made."""
        heads, tokens, size = SHAPES[self.shape]
        generator = torch.Generator().manual_seed(0)
        x = tuple(torch.randn(1, heads, tokens, size, generator=generator) for _ in range(3))
        return lambda: TASKS[self.task](IMPLEMENTATIONS[self.implementation], x)


def implementations(task: str) -> list[str]:
    return [name for name in IMPLEMENTATIONS if name != "sdpa" or task in FIRST_ORDER]


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in SHAPES for task in TASKS for name in implementations(task)]


SUITE = Suite(shapes="heads x tokens x size", peers={"eager": "eager", "sdpa": "SDPA"}, cells=cells)
