"""What is timed of an operator: what a user runs, from inputs to the last number; nothing is kept from an earlier run.

Derivatives are those of the operator inside a network: a cotangent comes from behind it, and along a tangent it moves
too. A loss round the operator would be timed as well: the square and sum that a toy loss adds take longer than a GELU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp, vjp

Function = Callable[..., Tensor]
Tensors = tuple[Tensor, ...]


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
FIRST_ORDER = ("forward", "forward + backward")  # all that PyTorch's fused attention can do


def prepared(
    task: str, f: Function, shapes: Sequence[Sequence[int]], place: Callable[[Tensor], Tensor] = lambda t: t
) -> Callable[[], object]:
    """The task as a function without arguments: inputs of these shapes, their tangents and the cotangent's are made.

    They are drawn on the CPU in float32; ``place`` gives them the dtype and the device that they are to have.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        return place(torch.randn(shape, generator=generator))

    x, t = (tuple(map(draw, shapes)) for _ in range(2))
    with torch.no_grad():
        g = draw(f(*x).shape)
    return lambda: TASKS[task](f, x, t, g)
