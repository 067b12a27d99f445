"""The public function: PyTorch's values and derivatives, when it is served, one clear error for each bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from alternet.kernels import linear, second_order, use_backend
from alternet.kernels.linear import in_place, reference
from alternet.kernels.linear.cases import inputs

from .graphs import ours
from .layers import normal, product


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lead=st.lists(st.integers(0, 3), max_size=3),
    channels=st.integers(0, 5),
    out_channels=st.integers(0, 5),
    bias=st.booleans(),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_values_and_derivatives_are_pytorchs(lead, channels, out_channels, bias, backend):
    x = [normal(*lead, channels), normal(out_channels, channels), *[normal(out_channels)] * bias]
    with use_backend(backend):
        mine = product(linear, x)
        moved = jvp(grad(lambda *x: linear(*x).sin().sum(), tuple(range(len(x)))), tuple(x), tuple(x))
    for got, want in zip(mine, product(F.linear, x), strict=True):
        torch.testing.assert_close(got, want)
    want = jvp(grad(lambda *x: F.linear(*x).sin().sum(), tuple(range(len(x)))), tuple(x), tuple(x))
    torch.testing.assert_close(moved, want)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("moving", list(itertools.product((False, True), repeat=4)), ids=str)
def test_sums_in_place_are_those_of_the_reference(moving, count):
    """For every choice of tangents; nothing that is given changes, not even where one row makes a bias contiguous."""
    x = inputs(1, 3, 4)
    g = normal(1, 1, 4)
    *t_x, t_g = (normal(count, *t.shape, seed=2) if moves else None for t, moves in zip((*x, g), moving, strict=True))
    given_before = [None if t is None else t.clone() for t in (*x, g, *t_x, t_g)]
    if any(moving[:3]):
        torch.testing.assert_close(in_place.tangent(*x, None, *t_x), reference.tangent(*x, None, *t_x))
    if any(moving):
        arguments = (*x, None, g, *t_x, None, t_g)
        for needs in itertools.product((False, True), repeat=3):
            got, want = (maps.backward_tangent(*arguments, needs=needs) for maps in (in_place, reference))
            assert [t is not None for t in got] == list(needs)
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b)
    for now, before in zip((*x, g, *t_x, t_g), given_before, strict=True):
        assert now is before is None or torch.equal(now, before)


@pytest.mark.parametrize("maps", [in_place, reference])
def test_a_tangent_of_one_row_is_no_view_of_the_biases(maps):
    t_bias = normal(1, 1, 4)
    (t_y,) = maps.tangent(*inputs(1, 3, 4), None, None, None, t_bias)
    torch.testing.assert_close(t_y, t_bias[:, :, None])
    assert t_y.data_ptr() != t_bias.data_ptr()


@pytest.mark.parametrize("mapped", list(itertools.product((None, 0), repeat=3))[1:], ids=str)
def test_vmap_of_a_product(mapped):
    x = [normal(*(() if d is None else (3,)), *shape) for d, shape in zip(mapped, [(2, 4), (5, 4), (5,)], strict=True)]

    def derivative(f):
        first = grad(lambda *x: f(*x).sin().sum(), (0, 1, 2))
        return vmap(lambda *x: jvp(first, x, x)[1], in_dims=mapped)(*x)

    torch.testing.assert_close(derivative(linear), derivative(F.linear))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("served", [False, True], ids=["linear", "second_order"])
def test_autocast_is_pytorchs(dtype, served):
    x = [normal(2, 7, 5, dtype=torch.float32), normal(6, 5, dtype=torch.float32), normal(6, dtype=torch.float32)]

    def mine(*x):
        with second_order():
            return (F.linear if served else linear)(*x)

    with torch.autocast("cpu", dtype):
        got, want = product(mine, x), product(F.linear, x)
    assert [t.dtype for t in got] == [t.dtype for t in want]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.03, atol=0.03 * b.abs().max().item())


def test_second_order_serves_16_bits_under_autograd():
    layer, x = torch.nn.Linear(4, 3), normal(2, 4, dtype=torch.float32)
    with second_order():
        assert not ours(layer(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(layer(x))
        assert ours(layer.bfloat16()(x.bfloat16()))


def test_second_order_leaves_it_to_pytorch_inside_torch_func(monkeypatch):
    monkeypatch.setattr("alternet.kernels.interception.linear", None)  # would raise
    x = [t.bfloat16() for t in (normal(2, 4), normal(3, 4), normal(3))]
    with second_order():
        jvp(grad(lambda w: F.linear(x[0], w, x[2]).sum()), (x[1],), (x[1],))
        vmap(lambda x_i: F.linear(x_i, *x[1:]))(x[0])


def test_results_may_be_changed_in_place():
    x = [normal(2, 3, 4), normal(5, 4), normal(5)]
    for got, want in zip(*(product(lambda *x, f=f: f(*x).relu_(), x) for f in (linear, F.linear)), strict=True):
        torch.testing.assert_close(got, want)


def test_strides():
    x = [normal(4, 6).t()[::2], normal(4, 5).t(), normal(10)[::2]]
    for got, want in zip(product(linear, x), product(F.linear, x), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        ((None, torch.ones(3, 4)), TypeError, "x: expected a tensor, got NoneType"),
        ((torch.ones(4, dtype=torch.int64), torch.ones(3, 4)), TypeError, "x: dtype torch.int64"),
        ((torch.ones(2, 4), torch.ones(4)), ValueError, r"weight: shape \(4,\), expected \[O, C\]"),
        ((torch.ones(2, 5), torch.ones(3, 4)), ValueError, r"x: shape \(2, 5\), expected \[..., 4\]"),
        ((torch.tensor(1.0), torch.ones(3, 1)), ValueError, r"x: shape \(\), expected \[..., 1\]"),
        ((torch.ones(2, 4), torch.ones(3, 4).double()), TypeError, "weight: dtype torch.float64"),
        ((torch.ones(2, 4), torch.ones(3, 4), torch.ones(2)), ValueError, r"bias: shape \(2,\), expected \(3,\)"),
    ],
)
def test_errors(x, error, match):
    with pytest.raises(error, match=match):
        linear(*x)
