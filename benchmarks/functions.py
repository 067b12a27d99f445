"""``python -m benchmarks.functions``: of which of PyTorch's functions ``torch.func`` gives the right Hessian.

float64, of a loss of each function's result, in all its tensors, by every composition of ``jacrev`` and ``jacfwd``:
PyTorch's own functions, and the same calls inside ``second_order()``. Each is compared with the Hessian of the same
formula in elementary operations. Writes benchmarks/results/functions.md and functions.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jacfwd, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet.kernels import second_order

from . import measure
from .peers import eager as eager_attention
from .report import RESULTS, machine, save_answers

Function = Callable[..., Tensor]
RIGHT = 1e-9  # relative error in float64 that still counts as right

COMPOSITIONS: dict[str, Callable[[Function], Function]] = {
    "jacfwd(jacrev), which is hessian": lambda f: jacfwd(jacrev(f)),
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f)),
    "jacrev(jacfwd)": lambda f: jacrev(jacfwd(f)),
    "jacfwd(jacfwd)": lambda f: jacfwd(jacfwd(f)),
}


@dataclass(frozen=True)
class Case:
    """A function of PyTorch, and what it computes in elementary operations, of tensors of these shapes."""

    shapes: Sequence[tuple[int, ...]]
    function: Function
    formula: Function

    def loss(self, f: Function) -> Function:
        """Of one vector of all tensors' numbers; every entry of the result counts otherwise."""
        sizes = [math.prod(shape) for shape in self.shapes]

        def loss(numbers: Tensor) -> Tensor:
            parts = zip(numbers.split(sizes), self.shapes, strict=True)
            y = f(*(part.view(shape) for part, shape in parts)).flatten()
            return torch.sin(y * torch.arange(1, len(y) + 1, dtype=y.dtype)).sum()

        return loss

    def numbers(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(sum(map(math.prod, self.shapes)), generator=generator, dtype=torch.float64)

    @functools.cached_property
    def expected(self) -> Tensor:
        """The Hessian of the formula."""
        return jacfwd(jacrev(self.loss(self.formula)))(self.numbers())


def _centred(x: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    deviation = x - x.mean(axes, keepdim=True)
    return deviation / (deviation.square().mean(axes, keepdim=True) + 1e-5).sqrt()


CLASSES = torch.tensor([0, 2, 1])
CASES = {
    "layer_norm": Case(
        [(3, 4), (4,), (4,)], lambda x, w, b: F.layer_norm(x, (4,), w, b), lambda x, w, b: _centred(x, -1) * w + b
    ),
    "group_norm": Case(
        [(2, 4, 3), (4, 1), (4, 1)],
        lambda x, w, b: F.group_norm(x, 2, w[:, 0], b[:, 0]),
        lambda x, w, b: _centred(x.view(2, 2, 6), -1).view(2, 4, 3) * w + b,
    ),
    "instance_norm": Case([(2, 3, 5)], F.instance_norm, lambda x: _centred(x, -1)),
    "batch_norm, statistics of the batch": Case(
        [(4, 3, 2), (3, 1), (3, 1)],
        lambda x, w, b: F.batch_norm(x, None, None, w[:, 0], b[:, 0], training=True),
        lambda x, w, b: _centred(x, (0, 2)) * w + b,
    ),
    "batch_norm, running statistics": Case(
        [(4, 3, 2), (3, 1), (3, 1)],
        lambda x, w, b: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), w[:, 0], b[:, 0]),
        lambda x, w, b: x / (1 + 1e-5) ** 0.5 * w + b,
    ),
    "rms_norm": Case(
        [(3, 4), (4,)],
        lambda x, w: F.rms_norm(x, (4,), w, 1e-5),
        lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w,
    ),
    "gelu": Case([(6,)], F.gelu, lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
    "softmax": Case([(2, 5)], lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True)),
    "cross_entropy": Case(
        [(3, 4)],
        lambda x: F.cross_entropy(x, CLASSES),
        lambda x: (x.exp().sum(-1).log() - x[range(3), CLASSES]).mean(),
    ),
    "mse_loss": Case([(5,), (5,)], F.mse_loss, lambda a, b: (a - b).square().mean()),
    "scaled_dot_product_attention": Case([(1, 1, 3, 4)] * 3, F.scaled_dot_product_attention, eager_attention),
    "conv2d": Case(
        [(1, 2, 4, 4), (3, 2, 3, 3), (3, 1)],
        lambda x, w, b: F.conv2d(x, w, b[:, 0], padding=1),
        lambda x, w, b: w.flatten(1) @ F.unfold(x, 3, padding=1) + b,
    ),
}


def verdict(case: Case, composition: str, inside: bool) -> str:
    """Of the Hessian by a composition, in the words of ``measure.verdict``."""

    def ask() -> list[Tensor]:
        context = second_order() if inside else contextlib.nullcontext()
        with context, sdpa_kernel(SDPBackend.MATH):
            return [COMPOSITIONS[composition](case.loss(case.function))(case.numbers())]

    return measure.verdict(ask, [case.expected], RIGHT)


def answers(case: Case) -> dict[str, str]:
    """PyTorch's own by each composition, and what all of them give inside; there the first that is not right."""
    own = {composition: verdict(case, composition, inside=False) for composition in COMPOSITIONS}
    ours = [verdict(case, composition, inside=True) for composition in COMPOSITIONS]
    return {**own, "all four inside second_order()": next((word for word in ours if word != "right"), "right")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.functions", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = {name: answers(case) for name, case in CASES.items()}
    note = f"{machine()}; float64, errors of whole Hessians; `python -m benchmarks.functions` remakes it."
    save_answers(options.out, "functions", rows, note)


if __name__ == "__main__":
    main()
