"""The public function: PyTorch's conventions, values and dtypes, one clear error for each bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from alternet.kernels import layer_norm


def tensors(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    one = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in (shape, shape[-1:], shape[-1:])]
    return tuple(one)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), weight=st.booleans(), bias=st.booleans())
def test_values_and_gradients_are_pytorchs(shape, weight, bias):
    x, w, b = (t.requires_grad_() for t in tensors(*shape, 5))
    w, b = w if weight else None, b if bias else None
    mine, theirs = layer_norm(x, w, b, eps=1e-3), F.layer_norm(x, (5,), w, b, 1e-3)
    torch.testing.assert_close(mine, theirs)
    leaves = [t for t in (x, w, b) if t is not None]
    for one, other in zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (mine, theirs)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_of_the_result(dtype, backend):
    x, w, b = tensors(3, 4, 33, dtype=dtype)
    mine = layer_norm(x, w, b)
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, F.layer_norm(x, (33,), w, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_pytorchs(dtype):
    x, w, b = tensors(3, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = layer_norm(x.to(dtype), w, b), F.layer_norm(x.to(dtype), (8,), w, b)
    assert mine.dtype == theirs.dtype
    torch.testing.assert_close(mine, theirs)


def test_rows_of_a_large_mean_keep_their_digits(backend):
    x = tensors(4, 64, dtype=torch.float32)[0] + 3000
    exact = F.layer_norm(x.double(), (64,))
    own = (F.layer_norm(x, (64,)).double() - exact).abs().max()
    assert (layer_norm(x).double() - exact).abs().max() <= 2 * own + 1e-6


def test_weight_gradients_of_many_rows_are_as_good_as_float64(backend):
    x, w, b = tensors(100_000, 4, dtype=torch.float32)
    w, b = w.requires_grad_(), b.requires_grad_()
    sums = torch.autograd.grad(layer_norm(x, w, b).sum(), (w, b))
    assert sums[1].double().sub(100_000).abs().max() < 1e-2
    torch.testing.assert_close(sums[0].double(), F.layer_norm(x.double(), (4,)).sum(0), rtol=0, atol=2e-3)


def test_empty():
    assert layer_norm(torch.zeros(0, 3)).shape == (0, 3)
    assert layer_norm(torch.zeros(2, 0)).shape == (2, 0)


BAD = {
    "x: expected a tensor, got list": lambda x, w, b: ([1.0], w, b),
    "x: dtype torch.int64": lambda x, w, b: (x.long(), w, b),
    r"x: shape \(\), expected at least one axis": lambda x, w, b: (x[0, 0], None, None),
    "weight: expected a tensor, got float": lambda x, w, b: (x, 1.0, b),
    "weight: dtype torch.float32, expected x's dtype torch.float64": lambda x, w, b: (x, w.float(), b),
    "bias: is on meta, expected x's device cpu": lambda x, w, b: (x, w, b.to("meta")),
    r"bias: shape \(2, 4\), expected \(4,\)": lambda x, w, b: (x, w, b.expand(2, 4)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        layer_norm(*BAD[message](*tensors(3, 4)))


@pytest.mark.parametrize(
    ("eps", "error", "message"),
    [
        ("a", TypeError, "eps: expected a number, got 'a'"),
        (float("nan"), ValueError, "eps: got nan, expected a finite number, at least 0"),
        (-1e-5, ValueError, "eps: got -1e-05, expected a finite number, at least 0"),
    ],
)
def test_bad_eps_gets_one_clear_error(eps, error, message):
    with pytest.raises(error, match=message):
        layer_norm(torch.ones(2, 3), eps=eps)
