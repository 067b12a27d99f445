"""A ViT's own size, N = 197 with a learned bias, in the dispatched backend: the derivatives users take."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp, vmap

from alternet.kernels import attention
from alternet.kernels.attention.cases import eager, inputs

SCALE = 64**-0.5


def ours(*x):
    return attention(*x)


def theirs(*x):
    return eager(*x, scale=SCALE, is_causal=False)


def gradient(f):
    return grad(lambda *x: f(*x).square().sum(), argnums=(0, 1, 2, 3))


def product(f, x, t):
    return jvp(gradient(f), x, t)


def double_backward(f, x, t):
    leaves = [a.clone().requires_grad_() for a in x]
    first = torch.autograd.grad(f(*leaves).square().sum(), leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, t)


def over_tangents(f, x, t):
    return vmap(lambda s: product(f, x, tuple(s * a for a in t))[1])(torch.tensor([1.0, -2.0]).to(x[0]))


def compiled_product(f, x, t):
    run = torch.compile(product, fullgraph=True) if f is ours else product
    return run(f, x, t)


@pytest.mark.parametrize("run", [product, double_backward, over_tangents, compiled_product], ids=lambda r: r.__name__)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_second_derivatives_at_vit_size(run, dtype, tolerance):
    torch._dynamo.reset()
    exact = inputs(1, 3, 197, 197, 64, 64, (1, 3, 197, 197))
    t = inputs(1, 3, 197, 197, 64, 64, (1, 3, 197, 197), seed=1)
    mine = run(ours, tuple(a.to(dtype) for a in exact), tuple(a.to(dtype) for a in t))
    true = run(theirs, exact, t)
    for a, b in zip(torch.utils._pytree.tree_leaves(mine), torch.utils._pytree.tree_leaves(true), strict=True):
        assert (a.double() - b).norm() <= tolerance * b.norm()
