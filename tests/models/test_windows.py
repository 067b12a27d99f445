"""Window attention against one dense attention over all pixels with the other windows masked."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, grad, jvp

from alternet.kernels import available_backends, use_backend, window_attention
from alternet.layers import WindowAttention2d, relative_position_bias

WINDOWS = importlib.import_module("alternet.layers.windows")
SIZES = [(8, 8, 4), (10, 7, 4), (3, 2, 4), (2, 9, 4), (5, 5, 1), (1, 1, 3)]  # height, width, window


def dense(x: Tensor, weight: dict[str, Tensor], *, num_heads: int) -> Tensor:
    """The layer from its definition: x [B, dim, H, W], weight: its parameters by name."""
    height, width = x.shape[-2:]
    table = weight["pos_embedding"]
    side, far = (len(table) + 1) // 2, len(table) // 2
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    same = (row[:, None] // side == row // side) & (column[:, None] // side == column // side)
    down, right = (row - row[:, None]).clamp(-far, far), (column - column[:, None]).clamp(-far, far)
    bias = table[down + far, right + far].masked_fill(~same, -torch.inf)

    pixels = x.flatten(2)  # [B, dim, HW]
    query = torch.einsum("oi,bip->bop", weight["attn.to_q.weight"][:, :, 0, 0], pixels)
    key, value = torch.einsum("oi,bip->bop", weight["attn.to_kv.weight"][:, :, 0, 0], pixels).chunk(2, 1)
    query, key, value = (t.unflatten(1, (num_heads, -1)) for t in (query, key, value))  # [B, heads, D, HW]
    scores = torch.einsum("bhdi,bhdj->bhij", query, key) * query.shape[2] ** -0.5 + bias
    inner = torch.einsum("bhij,bhdj->bhdi", scores.softmax(-1), value).flatten(1, 2)
    out = torch.einsum("oi,bip->bop", weight["attn.to_out.0.weight"][:, :, 0, 0], inner)
    return (out + weight["attn.to_out.0.bias"][:, None]).unflatten(-1, (height, width))


def make(size: tuple[int, int, int], *, batch: int = 2, heads: int = 2, head_dim: int = 3) -> tuple:
    """A layer 4 -> 5 channels with a large table, an input, and the layer's parameters; float64."""
    height, width, side = size
    with torch.random.fork_rng():
        torch.manual_seed(height * 100 + width * 10 + side)
        layer = WindowAttention2d(4, 5, num_heads=heads, head_dim=head_dim, window_size=side).double()
        torch.nn.init.normal_(layer.pos_embedding)
        x = torch.randn(batch, 4, height, width, dtype=torch.float64, requires_grad=True)
    return layer, x, dict(layer.named_parameters())


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 5)),
    batch=st.integers(0, 2),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
)
def test_any_size(size, batch, heads, head_dim):
    layer, x, weight = make(size, batch=batch, heads=heads, head_dim=head_dim)
    ours, expected = layer(x), dense(x, weight, num_heads=heads)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    inputs = (x, *weight.values())
    for got, want in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_forward_over_reverse(size):
    layer, x, weight = make(size)
    primal = (x.detach(), {name: parameter.detach() for name, parameter in weight.items()})
    tangent = (torch.sin(3 * primal[0]), {name: torch.sin(3 * value) for name, value in primal[1].items()})

    def hessian_product(function):
        return jvp(grad(lambda x, weight: function(x, weight).pow(3).sum(), argnums=(0, 1)), primal, tangent)[1]

    got_x, got = hessian_product(lambda x, weight: functional_call(layer, weight, (x,)))
    want_x, want = hessian_product(lambda x, weight: dense(x, weight, num_heads=2))
    torch.testing.assert_close(got_x, want_x, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def test_gradgradcheck():
    layer, x, weight = make((3, 5, 2), batch=1, heads=1, head_dim=2)

    def function(x, *values):
        return functional_call(layer, dict(zip(weight, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(function, (x, *weight.values()))


def test_relative_position_bias():
    table = torch.arange(49.0).reshape(7, 7)  # windows of 4 x 4
    bias = relative_position_bias(table, (4, 4))
    for i in range(16):
        for j in range(16):
            assert bias[i, j] == table[j // 4 - i // 4 + 3, j % 4 - i % 4 + 3]
    small = relative_position_bias(table, (2, 3))
    assert small[4, 2] == table[0 - 1 + 3, 2 - 1 + 3]  # from (1, 1) to (0, 2)
    assert small.shape == (6, 6)


def test_what_attention_is_given(monkeypatch):
    """Views of what the projections return, in windows no larger than the map, and the middle of the one table."""
    seen, options = [], []
    monkeypatch.setattr(
        WINDOWS, "window_attention", lambda *x, **y: seen.append(x) or options.append(y) or window_attention(*x, **y)
    )
    for size in ((8, 8, 4), (9, 8, 4), (3, 3, 4)):
        layer, x, _ = make(size, batch=5)
        layer(x)
    assert [query.shape for query, *_ in seen] == [(5, 6, 8, 8), (5, 6, 9, 8), (5, 6, 3, 3)]
    assert all(t._is_view() and t.stride(1) == 1 for maps in seen for t in maps)
    assert [given["window_size"] for given in options] == [(4, 4), (4, 4), (3, 3)]
    assert [tuple(given["table"].shape) for given in options] == [(7, 7), (7, 7), (5, 5)]
    assert all(given["table"]._is_view() for given in options)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_float32_backends(backend):
    if available_backends()[backend] is not None:
        pytest.skip(f"{backend}: {available_backends()[backend]}")
    layer, x, weight = make((10, 7, 4), head_dim=16)
    expected = dense(x, weight, num_heads=2)
    expected_gradient = torch.autograd.grad(expected.square().sum(), (x, *weight.values()))
    low = x.detach().float().requires_grad_()
    with use_backend(backend):
        out = layer.float()(low)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    gradient = torch.autograd.grad(out.square().sum(), (low, *layer.parameters()))
    for got, want in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_channels_last():
    layer, x, weight = make((7, 5, 3))
    out = layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, dense(x, weight, num_heads=2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 5, 8, 8), (2, 6, 0, 8), (1, 2, 6, 8, 8)])
def test_wrong_maps(shape):
    with pytest.raises(ValueError, match=r"x must be \[batch, 6, height, width\].*got"):
        WindowAttention2d(6, num_heads=1, head_dim=2)(torch.zeros(shape))


@pytest.mark.parametrize("argument", ["dim", "dim_out", "num_heads", "head_dim", "window_size"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True])
def test_wrong_sizes(argument, value):
    arguments = {"dim": 4, "num_heads": 1, "head_dim": 2, "window_size": 2, argument: value}
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got {value}"):
        WindowAttention2d(**arguments)
