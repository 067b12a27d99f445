"""Window attention against one dense attention over all pixels, with the other windows masked."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jvp

from alternet.kernels import attention, available_backends, use_backend
from alternet.layers import WindowAttention2d, relative_position_bias, window_attention

WINDOWS = importlib.import_module("alternet.layers.windows")
SIZES = [(8, 8, 4), (10, 7, 4), (3, 2, 4), (2, 9, 4), (5, 5, 1), (1, 1, 3)]  # height, width, window


def dense(query: Tensor, key: Tensor, value: Tensor, table: Tensor, *, num_heads: int) -> Tensor:
    """The same function of the same tensors, from its definition."""
    height, width = query.shape[-2:]
    side = (len(table) + 1) // 2
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    same = (row[:, None] // side == row // side) & (column[:, None] // side == column // side)
    far = side - 1
    down, right = (row - row[:, None]).clamp(-far, far), (column - column[:, None]).clamp(-far, far)
    bias = table[down + far, right + far].masked_fill(~same, -torch.inf)

    query, key, value = (x.flatten(2).unflatten(1, (num_heads, -1)) for x in (query, key, value))  # [B, heads, D, HW]
    scores = torch.einsum("bhdi,bhdj->bhij", query, key) * query.shape[2] ** -0.5 + bias
    return torch.einsum("bhij,bhdj->bhdi", scores.softmax(-1), value).flatten(1, 2).unflatten(-1, (height, width))


def make(size: tuple[int, int, int], *, batch: int = 2, heads: int = 2, dim: int = 3) -> list[Tensor]:
    height, width, side = size
    generator = torch.Generator().manual_seed(height * 100 + width * 10 + side)
    shapes = [(batch, heads * dim, height, width)] * 3 + [(2 * side - 1, 2 * side - 1)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11), st.integers(1, 5)),
    batch=st.integers(0, 2),
    heads=st.integers(1, 3),
    dim=st.integers(1, 4),
)
def test_any_size(size, batch, heads, dim):
    x = make(size, batch=batch, heads=heads, dim=dim)
    ours, expected = window_attention(*x, num_heads=heads), dense(*x, num_heads=heads)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    for got, want in zip(
        torch.autograd.grad(ours, x, cotangent), torch.autograd.grad(expected, x, cotangent), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_forward_over_reverse(size):
    x = tuple(t.detach() for t in make(size))
    tangents = tuple(torch.sin(3 * t) for t in x)

    def hessian_product(function):
        loss = grad(lambda *x: function(*x, num_heads=2).pow(3).sum(), argnums=(0, 1, 2, 3))
        return jvp(loss, x, tangents)[1]

    for got, want in zip(hessian_product(window_attention), hessian_product(dense), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def test_gradgradcheck():
    assert torch.autograd.gradgradcheck(
        lambda *x: window_attention(*x, num_heads=1), make((3, 5, 2), batch=1, heads=1, dim=2)
    )


def test_relative_position_bias():
    table = torch.arange(49.0).reshape(7, 7)  # windows of 4 x 4
    bias = relative_position_bias(table, [4, 4])
    for i in range(16):
        for j in range(16):
            assert bias[i, j] == table[j // 4 - i // 4 + 3, j % 4 - i % 4 + 3]
    small = relative_position_bias(table, [2, 3])
    assert small[4, 2] == table[0 - 1 + 3, 2 - 1 + 3]  # from (1, 1) to (0, 2)
    assert small.shape == (6, 6)


def test_bias_never_grows_with_the_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(WINDOWS, "attention", lambda *x: seen.append(x) or attention(*x))
    for size in ((8, 8, 4), (9, 8, 4), (3, 3, 4)):
        window_attention(*make(size, batch=5), num_heads=2)
    assert [tuple(bias.shape) for *_, bias in seen] == [(1, 1, 16, 16), (6, 1, 16, 16), (1, 1, 9, 9)]
    assert [tuple(query.shape) for query, *_ in seen] == [(4, 10, 16, 3), (6, 10, 16, 3), (1, 10, 9, 3)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_float32_backends(backend):
    if available_backends()[backend] is not None:
        pytest.skip(f"{backend}: {available_backends()[backend]}")
    x = make((10, 7, 4), dim=16)
    low = [t.detach().float().requires_grad_() for t in x]
    with use_backend(backend):
        out = window_attention(*low, num_heads=2)
    expected = dense(*x, num_heads=2)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(out.sum() + out.square().sum(), low),
        torch.autograd.grad(expected.sum() + expected.square().sum(), x),
        strict=True,
    )
    for got, want in pairs:
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_module():
    torch.manual_seed(0)
    layer = WindowAttention2d(6, 10, num_heads=2, head_dim=4, window_size=3).double()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    weight = layer.state_dict()
    query = torch.einsum("oi,bihw->bohw", weight["attn.to_q.weight"][:, :, 0, 0], x)
    key, value = torch.einsum("oi,bihw->bohw", weight["attn.to_kv.weight"][:, :, 0, 0], x).chunk(2, 1)
    inner = dense(query, key, value, layer.pos_embedding, num_heads=2)
    out = torch.einsum("oi,bihw->bohw", weight["attn.to_out.0.weight"][:, :, 0, 0], inner)
    expected = out + weight["attn.to_out.0.bias"][:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected, rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == (0, 10, 7, 5)


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
