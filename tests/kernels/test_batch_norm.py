"""The public function: PyTorch's conventions, values, running statistics, one clear error for each bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from alternet.kernels import batch_norm


def tensors(*shape, dtype=torch.float64):
    """x, running_mean, running_var, weight, bias."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    channels = shape[1]
    return normal(*shape) + 1, normal(channels), normal(channels).exp(), normal(channels) + 1, normal(channels)


def both(x, mean, var, weight, bias, training, activation, momentum=0.3):
    """(result, running_mean, running_var) of ours and of PyTorch's, each on statistics of its own."""

    def theirs(x, mean, var, weight, bias, training, momentum, eps, activation):
        y = F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        return F.relu(y) if activation else y

    for f in (batch_norm, theirs):
        m, v = (None if t is None else t.clone() for t in (mean, var))
        yield f(x, m, v, weight, bias, training, momentum, 1e-4, activation), m, v


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(2, 5), st.integers(1, 4)),
    rest=st.lists(st.integers(1, 5), max_size=3),
    training=st.booleans(),
    affine=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
)
def test_values_statistics_and_gradients_are_pytorchs(shape, rest, training, affine, activation):
    x, mean, var, weight, bias = tensors(*shape, *rest)
    leaves = [t.requires_grad_() for t in ((x, weight, bias) if affine else (x,))]
    weight, bias = (weight, bias) if affine else (None, None)
    mine, theirs = both(x, mean, var, weight, bias, training, activation)
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(*(torch.autograd.grad(r[0].sin().sum(), leaves) for r in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_of_the_result(dtype, backend):
    x, _, _, weight, bias = tensors(4, 3, 17, dtype=dtype)
    mine = batch_norm(x, None, None, weight, bias, True, activation="relu")
    exact = F.batch_norm(*(t if t is None else t.double() for t in (x, None, None, weight, bias)), True).relu()
    assert mine.dtype == dtype
    torch.testing.assert_close(mine.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_16_bit_maps_with_float32_weights():
    x, mean, var, weight, bias = tensors(4, 3, 17, dtype=torch.float32)
    (mine, *a), (theirs, *b) = both(x.bfloat16(), mean, var, weight, bias, True, None)
    torch.testing.assert_close((mine, *a), (theirs, *b), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("layout", ["channels last", "sliced"])
def test_strides(layout):
    x, mean, var, weight, bias = tensors(2, 3, 4, 6)
    x = x.to(memory_format=torch.channels_last) if layout == "channels last" else x[:, :, ::2]
    mine, theirs = both(x, mean, var, weight, bias, True, "relu")
    torch.testing.assert_close(mine, theirs)


def test_statistics_are_updated_once_under_transforms():
    x, mean, var, weight, bias = tensors(4, 3, 5)
    expected = list(both(x, mean, var, weight, bias, True, None))[1][1:]

    def loss(m, v):
        return lambda x: batch_norm(x, m, v, weight, bias, True, 0.3, 1e-4).sin().sum()

    def dual(m, v):
        with forward_ad.dual_level():
            loss(m, v)(forward_ad.make_dual(x, x))

    runs = {
        "grad": lambda m, v: grad(loss(m, v))(x),
        "jvp of grad": lambda m, v: jvp(grad(loss(m, v)), (x,), (x,)),
        "vmap over tangents": lambda m, v: vmap(lambda t: jvp(grad(loss(m, v)), (x,), (t,))[1])(torch.stack([x, x])),
        "dual numbers": dual,
    }
    for name, run in runs.items():
        m, v = mean.clone(), var.clone()
        run(m, v)
        torch.testing.assert_close((m, v), tuple(expected), msg=lambda text, name=name: f"{name}: {text}")


def test_vmap_over_x_updates_no_shared_statistics():
    x, mean, var, _, _ = tensors(2, 3, 4)
    stacked = torch.stack([x, 2 * x])
    with pytest.raises(RuntimeError, match="under vmap over x"):
        vmap(lambda x: batch_norm(x, mean, var, training=True))(stacked)
    mine, theirs = (vmap(lambda x, f=f: f(x, None, None, training=True))(stacked) for f in (batch_norm, F.batch_norm))
    torch.testing.assert_close(mine, theirs)


def test_a_channel_of_a_large_mean_keeps_its_digits(backend):
    x = tensors(8, 2, 64, dtype=torch.float32)[0] + 3000
    exact = F.batch_norm(x.double(), None, None, training=True)
    own = (F.batch_norm(x, None, None, training=True).double() - exact).abs().max()
    off = (batch_norm(x, None, None, training=True).double() - exact).abs().max()
    assert off <= 2 * own + 3000 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_running_variance_of_nearly_constant_channels_is_pytorchs(dtype, backend):
    """Where it is far below eps."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-9, 1e-7, 1e-5, 1e-3, 0.0]).view(1, 5, 1).to(dtype)
    x = torch.randn(8, 5, 30, generator=generator, dtype=dtype) * sizes
    (_, *mine), (_, *theirs) = both(x, torch.zeros(5, dtype=dtype), torch.zeros(5, dtype=dtype), None, None, True, None)
    torch.testing.assert_close(mine, theirs, rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_a_relu_after_nan_has_pytorchs_slope(backend):
    x, mean, var, weight, bias = tensors(4, 3, 5)
    x[0] = torch.nan
    gradients = (
        torch.autograd.grad(y.sum(), leaf)[0]
        for leaf in (x.requires_grad_(),)
        for y, _, _ in both(x, mean, var, weight, bias, False, "relu")
    )
    torch.testing.assert_close(*gradients)


BAD = {
    "momentum: expected a number, got None": lambda x, m, v, w, b: batch_norm(x, m, v, training=True, momentum=None),
    "momentum: expected a number, got 'a'": lambda x, m, v, w, b: batch_norm(x, m, v, training=True, momentum="a"),
    "eps: expected a number, got 'a'": lambda x, m, v, w, b: batch_norm(x, m, v, eps="a"),
    "eps: got nan, expected a finite number, at least 0": lambda x, m, v, w, b: batch_norm(x, m, v, eps=float("nan")),
    "eps: got -1.0, expected a finite number, at least 0": lambda x, m, v, w, b: batch_norm(x, m, v, eps=-1.0),
    "x: expected a tensor, got list": lambda x, m, v, w, b: batch_norm([1.0], m, v),
    r"x: shape \(3,\), expected at least two axes": lambda x, m, v, w, b: batch_norm(m, m, v),
    "activation: 'gelu', expected None or 'relu'": lambda x, m, v, w, b: batch_norm(x, m, v, activation="gelu"),
    "running_mean, running_var: expected both": lambda x, m, v, w, b: batch_norm(x, m, None, training=True),
    "expected both, or in training neither": lambda x, m, v, w, b: batch_norm(x, None, None),
    "expected more than one value a channel": lambda x, m, v, w, b: batch_norm(x[:1, :, 0], m, v, training=True),
    r"running_var: shape \(2,\) on cpu, expected \(3,\)": lambda x, m, v, w, b: batch_norm(x, m, v[:2]),
    r"weight: shape \(2,\), expected \(3,\)": lambda x, m, v, w, b: batch_norm(x, m, v, w[:2]),
    "bias: dtype torch.float32, expected x's dtype": lambda x, m, v, w, b: batch_norm(x, m, v, w, b.float()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message](*tensors(4, 3, 5))
