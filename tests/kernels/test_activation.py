"""The public functions: PyTorch's conventions, values and dtypes, one clear error for each bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jacrev, jvp, vmap

from alternet.kernels import gelu, relu, use_backend

FUNCTIONS = {
    "gelu": (gelu, F.gelu),
    "gelu_tanh": (lambda *x: gelu(*x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "relu": (relu, F.relu),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(FUNCTIONS)), shape=st.lists(st.integers(0, 9), max_size=4), bias=st.booleans())
def test_values_and_gradients_are_pytorchs(name, shape, bias):
    ours, theirs = FUNCTIONS[name]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    leaves = [x]
    if bias and shape:
        leaves.append(torch.randn(shape[-1], dtype=torch.float64, requires_grad=True))
    mine, other = ours(*leaves), theirs(sum(leaves))
    torch.testing.assert_close(mine, other)
    pairs = zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (mine, other)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@functions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_of_the_result(name, dtype, backend):
    ours, theirs = FUNCTIONS[name]
    x = torch.linspace(-6, 6, 999).to(dtype)
    assert ours(x).dtype == dtype
    torch.testing.assert_close(ours(x), theirs(x))


@functions
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_values_have_finite_derivatives(name, dtype, backend):
    ours, _ = FUNCTIONS[name]
    x = torch.tensor([-3e38, -1e4, -50.0, -20.0, 20.0, 50.0, 1e4, 3e38], dtype=dtype)
    slope, bend = jvp(grad(lambda x: ours(x).sum()), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, (x > 0).to(dtype))
    torch.testing.assert_close(bend, torch.zeros_like(x))


@functions
def test_nan_stays_nan(name, backend):
    ours, _ = FUNCTIONS[name]
    x = torch.tensor([1.0, torch.nan, -1.0] * 9)
    assert torch.equal(ours(x).isnan(), x.isnan())


def test_slope_of_relu_at_zero_is_zero(backend):
    assert grad(lambda x: relu(x).sum())(torch.zeros(3)).eq(0).all()


def test_slope_of_relu_at_nan_is_pytorchs(backend):
    x = torch.tensor([1.0, torch.nan, -1.0] * 9)
    mine, theirs = (jvp(grad(lambda x, f=f: (f(x) * 3).sum()), (x,), (torch.ones(27),)) for f in (relu, F.relu))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh"])
def test_float32_is_as_good_as_pytorchs_own(kind, backend):
    """Values and both derivatives on a fine grid: at most twice eager's error, or two roundings of the largest."""
    ours, theirs = FUNCTIONS[kind]
    x = torch.linspace(-9, 9, 100_003)

    def both(f, x):
        return (f(x), *jvp(grad(lambda x: f(x).sum()), (x,), (torch.ones_like(x),)))

    for mine, other, exact in zip(both(ours, x), both(theirs, x), both(theirs, x.double()), strict=True):
        off, eager_off = ((t.double() - exact).abs().max().item() for t in (mine, other))
        assert off <= max(2 * eager_off, 3 * 2**-23 * exact.abs().max().item())


@pytest.mark.parametrize("strides", ["transposed", "sliced", "channels last"])
def test_strides(strides):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    x = {"transposed": x.mT, "sliced": x[..., ::2], "channels last": x.to(memory_format=torch.channels_last)}[strides]
    torch.testing.assert_close(gelu(x), F.gelu(x))


BAD = {
    "x: expected a tensor, got float": lambda: gelu(1.0),
    "x: dtype torch.int64": lambda: relu(torch.ones(3, dtype=torch.int64)),
    r"approximate: \[\], expected 'none' or 'tanh'": lambda: gelu(torch.ones(3), approximate=[]),
    "approximate: 'erf', expected 'none' or 'tanh'": lambda: gelu(torch.ones(3), approximate="erf"),
    r"bias: shape \(4,\), expected \(3,\)": lambda: gelu(torch.ones(2, 3), torch.ones(4)),
    "bias: dtype torch.float64, expected x's dtype": lambda: gelu(torch.ones(3), torch.ones(3, dtype=torch.float64)),
    r"x: shape \(\), expected at least one axis": lambda: relu(torch.tensor(1.0), torch.ones(1)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message]()


def test_use_backend():
    x = torch.randn(5)
    with use_backend("reference"):
        torch.testing.assert_close(gelu(x), F.gelu(x))


SAMPLES = {
    "gradients": lambda f: vmap(grad(lambda x: f(x).sin().sum())),
    "Jacobians": lambda f: vmap(jacrev(f)),
    "Hessian-vector products": lambda f: vmap(lambda x: jvp(grad(lambda x: f(x).sin().sum()), (x,), (x,))[1]),
}


@functions
@pytest.mark.parametrize("of_samples", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
def test_samples_of_no_or_one_axis_under_vmap(name, of_samples, shape, backend):
    """Their gradients have as few axes as what stands for a gradient that nobody needs."""
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = FUNCTIONS[name]
    torch.testing.assert_close(of_samples(ours)(x), of_samples(theirs)(x))
