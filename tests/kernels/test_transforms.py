"""The transform matrix: every composition of PyTorch's transforms, on every case, against float64 eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils._pytree import tree_leaves


def loss_of(f):
    """A scalar with a third derivative of its own, so that every order of f's is seen."""
    return lambda *x: (f(*x) ** 3).sum() + f(*x).sin().sum()


def gradients(f, n):
    return grad(loss_of(f), argnums=tuple(range(n)))


def inner_gradient(f, case, t):
    return lambda *x: sum((g * c).sum() for g, c in zip(gradients(f, len(x))(*x), t, strict=True))


def second(f, case, t):
    n = len(case.x)
    return grad(inner_gradient(f, case, t), argnums=tuple(range(n)))


def hvp(f, case, t):
    return lambda *x: jvp(gradients(f, len(x)), x, t)[1]


def value(f, case):
    return f(*case.x)


def forward_mode(f, case):
    return jvp(f, case.x, case.tangents(1))


def reverse_mode(f, case):
    return gradients(f, len(case.x))(*case.x)


def vjp_twice(f, case):
    y, pull = vjp(f, *case.x)
    return [pull(torch.full_like(y, c)) for c in (1.0, -0.5)]


def forward_over_reverse(f, case):
    return hvp(f, case, case.tangents(1))(*case.x)


def linearized_gradient(f, case):
    _, push = linearize(gradients(f, len(case.x)), *case.x)
    return [push(*case.tangents(seed)) for seed in (1, 2)]


def reverse_over_reverse(f, case):
    return second(f, case, case.tangents(1))(*case.x)


def reverse_over_forward(f, case):
    n, t = len(case.x), case.tangents(1)
    return grad(lambda *x: jvp(loss_of(f), x, t)[1], argnums=tuple(range(n)))(*case.x)


def reverse_over_forward_of_tangent(f, case):
    """Derivatives of y' = J x' with respect to x' too."""
    n = len(case.x)
    pushed = lambda *both: (jvp(f, both[:n], both[n:])[1] ** 2).sum()  # noqa: E731
    return grad(pushed, argnums=tuple(range(2 * n)))(*case.x, *case.tangents(1))


def vmap_of_tangents(f, case):
    return vmap(lambda *t: hvp(f, case, t)(*case.x))(*case.tangents(3, 3))


def vmap_of_cotangents(f, case):
    y, pull = vjp(f, *case.x)
    return vmap(pull)(torch.linspace(-1, 1, 3 * y.numel(), dtype=y.dtype).reshape(3, *y.shape))


def vmap_of_everything(f, case):
    n = len(case.x)
    stacked = tuple(torch.stack([t, t.flip(0), 0.5 * t]) for t in case.x)
    return vmap(lambda *both: hvp(f, case, both[n:])(*both[:n]))(*stacked, *case.tangents(3, 3))


def vmap_of_one_input(f, case):
    """Only the last input (attention: the bias, or value) carries the mapped axis, and not in front."""
    last = torch.stack([case.x[-1], case.x[-1].flip(0)], dim=1)
    run = lambda last: gradients(f, len(case.x))(*case.x[:-1], last)  # noqa: E731
    return vmap(run, in_dims=1)(last)


def vmap_of_vmap(f, case):
    twice = vmap(vmap(lambda *t: hvp(f, case, t)(*case.x)))
    return twice(*case.tangents(3, 2, 2))


def vmap_inside_grad(f, case):
    stacked = tuple(torch.stack([t, 0.5 * t]) for t in case.x)
    total = lambda *x: vmap(loss_of(f))(*x).sum()  # noqa: E731
    n = len(stacked)
    return jvp(grad(total, argnums=tuple(range(n))), stacked, case.tangents(3, 2))[1]


def jacobians(f, case):
    return jacfwd(lambda q: f(q, *case.x[1:]))(case.x[0]), jacrev(lambda q: f(q, *case.x[1:]))(case.x[0])


def hessian_of_first(f, case):
    return hessian(lambda q: loss_of(f)(q, *case.x[1:]))(case.x[0])


def forward_over_forward(f, case):
    return jvp(lambda *x: jvp(f, x, case.tangents(1))[1], case.x, case.tangents(2))


def third_forward_forward_reverse(f, case):
    return jvp(hvp(f, case, case.tangents(1)), case.x, case.tangents(2))


def third_reverse_forward_reverse(f, case):
    n, t = len(case.x), case.tangents(1)
    return grad(lambda *x: sum((h**2).sum() for h in hvp(f, case, t)(*x)), argnums=tuple(range(n)))(*case.x)


def third_reverse_reverse_reverse(f, case):
    n, t = len(case.x), case.tangents(1)
    return grad(lambda *x: sum((h**2).sum() for h in second(f, case, t)(*x)), argnums=tuple(range(n)))(*case.x)


FIRST = [value, forward_mode, reverse_mode, vjp_twice, jacobians]
SECOND = [
    forward_over_reverse, linearized_gradient, reverse_over_reverse, reverse_over_forward,
    reverse_over_forward_of_tangent, hessian_of_first,
]  # fmt: skip
MAPPED = [vmap_of_tangents, vmap_of_cotangents, vmap_of_everything, vmap_of_one_input, vmap_of_vmap, vmap_inside_grad]
BEYOND = [
    forward_over_forward, third_forward_forward_reverse, third_reverse_forward_reverse, third_reverse_reverse_reverse,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:alternet. this derivative")
@pytest.mark.parametrize("transform", [*FIRST, *SECOND, *MAPPED, *BEYOND], ids=lambda t: t.__name__)
def test_transform_matches_eager(transform, case, backend):
    ours, eager = tree_leaves(transform(case.ours, case)), tree_leaves(transform(case.eager, case))
    assert len(ours) == len(eager)
    for mine, theirs in zip(ours, eager, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_missing_tangents_and_gradients(case, backend):
    """jvp(grad) with a tangent for input i alone and a gradient for input j alone, all pairs."""

    def partial(f, i, j):
        def inner(x_i):
            def loss(x_j):
                x = list(case.x)
                x[i] = x_i
                x[j] = x[j] + x_j
                return loss_of(f)(*x)

            return grad(loss)(torch.zeros_like(case.x[j]))

        return jvp(inner, (case.x[i],), (case.tangents(1)[i],))[1]

    for i in range(len(case.x)):
        for j in range(len(case.x)):
            ours, eager = partial(case.ours, i, j), partial(case.eager, i, j)
            torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-10, msg=lambda m, i=i, j=j: f"{i}, {j}: {m}")


def test_beyond_the_four_maps_says_so_once(case):
    from alternet.kernels import derivatives

    derivatives._say_once.cache_clear()
    with pytest.warns(UserWarning, match="no kernel"):
        forward_over_forward(case.ours, case)


def test_double_backward_through_tensors(case, backend):
    """``torch.autograd.grad(create_graph=True)`` twice, as PyHessian-style code calls it."""

    def run(f):
        x = [t.clone().requires_grad_() for t in case.x]
        first = torch.autograd.grad(loss_of(f)(*x), x, create_graph=True)
        inner = sum((g * c).sum() for g, c in zip(first, case.tangents(1), strict=True))
        return torch.autograd.grad(inner, x, create_graph=True)

    for mine, theirs in zip(run(case.ours), run(case.eager), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_dual_numbers(case, backend):
    from torch.autograd import forward_ad

    def run(f):
        with forward_ad.dual_level():
            x = [forward_ad.make_dual(t, c) for t, c in zip(case.x, case.tangents(1), strict=True)]
            return forward_ad.unpack_dual(f(*x)).tangent

    torch.testing.assert_close(run(case.ours), run(case.eager), rtol=1e-10, atol=1e-10)


def test_activation_checkpointing(case, backend):
    from torch.utils.checkpoint import checkpoint

    x = [t.clone().requires_grad_() for t in case.x]
    kept = torch.autograd.grad(loss_of(case.ours)(*x), x)
    recomputed = torch.autograd.grad(checkpoint(loss_of(case.ours), *x, use_reentrant=False), x)
    for a, b in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
