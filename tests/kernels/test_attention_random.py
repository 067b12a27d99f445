"""hypothesis over shapes, strides, biases, tables, masks, groups, missing tangents: jvp(grad) against float64 eager."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp

from alternet.kernels import available_backends, use_backend
from alternet.kernels.attention.cases import eager, inputs, on_grid, operator, parameters

SIZES = st.integers(1, 40)
FLAG = st.booleans()


def strided(tensor, how):
    if how == "transposed":
        return tensor.mT.contiguous().mT
    if how == "spread":
        return torch.stack([tensor, tensor], -1)[..., 0]
    return tensor


@st.composite
def problems(draw):
    b, h = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n, m, d, dv = draw(SIZES), draw(SIZES), draw(SIZES), draw(SIZES)
    grid, kernel_size, table = (), (), None
    if draw(FLAG):
        grid = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        n = m = grid[0] * grid[1]
        if draw(FLAG):
            kernel_size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 99))
    if grid and (draw(FLAG) or not kernel_size):
        lead = tuple(size if draw(FLAG) else 1 for size in (b, h))
        table = on_grid(b, h, grid, 1, lead, seed=seed)[4]
    bias = None
    if draw(FLAG):
        bias = tuple(size if draw(FLAG) else 1 for size in (b, h, n, m))
    key_heads = draw(st.sampled_from([k for k in range(1, h + 1) if h % k == 0]))
    hidden = bias is not None and draw(FLAG)
    x = (*inputs(b, h, n, m, d, dv, bias, hidden=hidden, key_heads=key_heads, seed=seed), table)
    ways = st.sampled_from(["dense", "transposed", "spread"])
    x = tuple(None if t is None else strided(t, draw(ways)) for t in x)
    present = [i for i, t in enumerate(x) if t is not None]
    tangents = [i for i in present if draw(FLAG)] or [draw(st.sampled_from(present))]
    wanted = [i for i in present if draw(FLAG)] or [draw(st.sampled_from(present))]
    return x, tangents, wanted, parameters(d**-0.5, draw(FLAG), grid, kernel_size)


@pytest.mark.parametrize("backend_name", [name for name in ("reference", "cpu") if available_backends()[name] is None])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(problem=problems())
def test_hessian_vector_products_of_random_problems(backend_name, problem):
    x, tangents, wanted, options = problem

    def product(f):
        def gradient(*moved):
            def loss(*probed):
                full = list(x)
                for i, t in zip(tangents, moved, strict=True):
                    full[i] = t
                for i, t in zip(wanted, probed, strict=True):
                    full[i] = full[i] + t
                return f(*full).sin().sum()

            return grad(loss, tuple(range(len(wanted))))(*(torch.zeros_like(x[i]) for i in wanted))

        primals = tuple(x[i] for i in tangents)
        return jvp(gradient, primals, tuple(torch.ones_like(t).cumsum(-1).cos() for t in primals))

    with use_backend(backend_name):
        mine = product(lambda *x: operator(*x, *options.values()))
    theirs = product(lambda *x: eager(*x, **options))
    for ours, other in zip((*mine[0], *mine[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)
