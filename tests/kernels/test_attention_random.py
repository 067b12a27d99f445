"""hypothesis over shapes, strides, bias broadcasts, masks and missing tangents: jvp(grad) against float64 eager."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp

from alternet.kernels import attention, available_backends, use_backend
from alternet.kernels.attention.cases import eager, inputs

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
    bias = None
    if draw(FLAG):
        bias = tuple(size if draw(FLAG) else 1 for size in (b, h, n, m))
    x = inputs(b, h, n, m, d, dv, bias, hidden=bias is not None and draw(FLAG), seed=draw(st.integers(0, 99)))
    ways = st.sampled_from(["dense", "transposed", "spread"])
    x = tuple(None if t is None else strided(t, draw(ways)) for t in x)
    used = 4 if bias is not None else 3
    tangents = [i for i in range(used) if draw(FLAG)] or [draw(st.integers(0, used - 1))]
    wanted = [i for i in range(used) if draw(FLAG)] or [draw(st.integers(0, used - 1))]
    return x, tangents, wanted, draw(FLAG)


@pytest.mark.parametrize("backend_name", [name for name in ("reference", "cpu") if available_backends()[name] is None])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems())
def test_hessian_vector_products_of_random_problems(backend_name, problem):
    x, tangents, wanted, causal = problem
    scale = x[0].shape[-1] ** -0.5

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
        mine = product(lambda q, k, v, b: attention(q, k, v, b, scale=scale, is_causal=causal))
    theirs = product(lambda q, k, v, b: eager(q, k, v, b, scale=scale, is_causal=causal))
    for ours, other in zip((*mine[0], *mine[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)
