"""What is compared: normalisations, activations and losses with their derivatives, this library against PyTorch.

A *task* is what a user runs, from the inputs to the last number: nothing is kept from an earlier run. Derivatives are
those of the operator inside a network: a cotangent comes from behind it, and along a tangent it moves too. A loss round
the operator would be timed as well: the square and sum that a toy loss adds take longer than a GELU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp, vjp

from alternet import kernels

from .suite import Suite

Function = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]

IMPLEMENTATIONS = ("alternet", "eager")


def layer_norm(name: str) -> Function:
    if name == "alternet":
        return kernels.layer_norm
    return lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias)


def gelu(name: str) -> Function:
    return kernels.gelu if name == "alternet" else F.gelu


def _cross_entropy(name: str) -> Function:
    target = torch.randint(0, 1000, (512,), generator=torch.Generator().manual_seed(1))
    f = kernels.cross_entropy if name == "alternet" else F.cross_entropy
    return lambda logits: f(logits, target)


def batch_norm_relu(name: str) -> Function:
    if name == "alternet":
        return lambda x, weight, bias: kernels.batch_norm(x, None, None, weight, bias, True, activation="relu")
    return lambda x, weight, bias: F.relu(F.batch_norm(x, None, None, weight, bias, True))


# workload -> (the function of an implementation, shapes of its inputs)
WORKLOADS: dict[str, tuple[Callable[[str], Function], tuple[tuple[int, ...], ...]]] = {
    "LayerNorm 4112 x 192": (layer_norm, ((4112, 192), (192,), (192,))),
    "LayerNorm 4112 x 768": (layer_norm, ((4112, 768), (768,), (768,))),
    "GELU 4112 x 192": (gelu, ((4112, 192),)),
    "GELU 4112 x 768": (gelu, ((4112, 768),)),
    "cross-entropy 512 x 1000": (_cross_entropy, ((512, 1000),)),
    "BatchNorm + ReLU 32 x 64 x 32 x 32": (batch_norm_relu, ((32, 64, 32, 32), (64,), (64,))),
}


def forward(f: Function, x: Tensors, t: Tensors, g: Tensor) -> object:
    with torch.no_grad():
        return f(*x)


def forward_backward(f: Function, x: Tensors, t: Tensors, g: Tensor) -> object:
    leaves = [tensor.detach().requires_grad_() for tensor in x]
    return torch.autograd.grad(f(*leaves), leaves, g)


def double_backward(f: Function, x: Tensors, t: Tensors, g: Tensor) -> object:
    """A Hessian-vector product as PyHessian and most others take it: gradient with a graph, then its gradient."""
    leaves = [tensor.detach().requires_grad_() for tensor in x]
    cotangent = g.detach().requires_grad_()
    first = torch.autograd.grad(f(*leaves), leaves, cotangent, create_graph=True)
    return torch.autograd.grad(first, [*leaves, cotangent], t, allow_unused=True)


def jvp_grad(f: Function, x: Tensors, t: Tensors, g: Tensor) -> object:
    """A Hessian-vector product by forward over reverse: the gradient, along tangents of inputs and cotangent."""

    def gradients(*both: Tensor) -> Tensors:
        return vjp(f, *both[:-1])[1](both[-1])

    return jvp(gradients, (*x, g), (*t, g))


TASKS = {
    "forward": forward,
    "forward + backward": forward_backward,
    "double backward": double_backward,
    "jvp(grad)": jvp_grad,
}


@dataclass(frozen=True)
class Cell:
    """One measurement: a workload (its shape too), a task and an implementation."""

    shape: str
    task: str
    implementation: str

    def prepare(self) -> Callable[[], object]:
        """The work as a function without arguments, its inputs made."""
        make, shapes = WORKLOADS[self.shape]
        generator = torch.Generator().manual_seed(0)
        x, t = (tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(2))
        f = make(self.implementation)
        g = torch.ones_like(f(*x))
        return lambda: TASKS[self.task](f, x, t, g)


def cells() -> list[Cell]:
    return [Cell(shape, task, name) for shape in WORKLOADS for task in TASKS for name in IMPLEMENTATIONS]


SUITE = Suite(shapes="operator", peers={"eager": "eager"}, cells=cells)
