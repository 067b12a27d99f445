"""Gradients of weights in bfloat16 by the tiles of AMX, against float64, and linear layers that take them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from alternet.kernels import linear, native
from alternet.kernels.linear.weight_product import weight_product

from .layers import normal, product

OPS = torch.ops.alternet_native
HAS_TILES = native.unavailable_reason() is None and "amx" in OPS.instruction_sets()
needs_tiles = pytest.mark.skipif(not HAS_TILES, reason="this processor has no AMX")

# depth, outputs, inputs: one number deep, a ragged step, several stretches, two panels of inputs, one side long
SIZES = [(1, 32, 32), (31, 64, 32), (33, 32, 96), (777, 96, 64), (500, 32, 1600), (450, 832, 32)]


def low(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed, dtype=torch.bfloat16)


def terms(size: tuple[int, int, int], count: int) -> list[torch.Tensor]:
    depth, outputs, inputs = size
    return [low(depth, side, seed=i) for i, side in enumerate([outputs, inputs] * count)]


def exact(tensors: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return torch.stack([g.double().t() @ x.double() for g, x in pairs]).sum(0)


@needs_tiles
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_the_exact_sum_rounded_once(size, count):
    tensors = terms(size, count)
    got, want = OPS.weight_product(*tensors, *[None] * (4 - len(tensors))), exact(tensors)
    assert got.dtype == torch.bfloat16
    assert got.is_contiguous()
    sums_in_float32 = 1e-6 * size[0] ** 0.5
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=sums_in_float32)


@needs_tiles
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    depth=st.integers(1, 900),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 30)),
    gaps=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    threads=st.integers(1, 5),
)
def test_rows_with_gaps_on_any_number_of_threads(depth, sides, gaps, threads):
    g, x = (low(depth, 32 * n + gap, seed=gap)[:, gap:] for n, gap in zip(sides, gaps, strict=True))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = OPS.weight_product(g, x, None, None)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, OPS.weight_product(g.contiguous(), x.contiguous(), None, None))
    torch.testing.assert_close(got.double(), exact([g, x]), rtol=2**-8, atol=1e-4)


@needs_tiles
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_shows_where_it_belongs(value):
    g, x = terms((70, 64, 64), 1)
    g[40, 13] = value
    finite = OPS.weight_product(g, x, None, None).isfinite()
    assert not finite[13].any()
    assert finite.all(1).sum() == 63


@needs_tiles
def test_a_linear_layer_takes_it(monkeypatch):
    calls = []
    real = OPS.weight_product

    def counted(*arguments):
        calls.append(sum(t is not None for t in arguments) // 2)
        return real(*arguments)

    monkeypatch.setattr(OPS, "weight_product", counted)
    x = [low(3, 130, 64), low(96, 64, seed=1), low(96, seed=2)]
    got, want = product(linear, x), product(F.linear, [t.double() for t in x])
    assert calls == [1, 2]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0.05, atol=0.05 * b.abs().max().item())


@needs_tiles
def test_what_is_not_served():
    g, x = terms((600, 64, 64), 1)
    assert weight_product([(g, x)]) is not None
    for pair in ((g.float(), x.float()), (g.half(), x.half()), (g[:, :10], x), (g[:, ::2], x), (g[:0], x[:0])):
        assert weight_product([pair]) is None
    before = OPS.use_instruction_set("avx512")
    try:
        assert weight_product([(g, x)]) is None
    finally:
        OPS.use_instruction_set(before)


@needs_tiles
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((0, 32), (0, 32)), "multiples of 32"),
        (((5, 32), (5, 40)), "multiples of 32"),
        (((5, 32), (6, 32)), "x: expected a bfloat16 matrix"),
        (((5, 32), (5, 32), (5, 32)), "half of a pair"),
        (((5, 32), (5, 32), (5, 32), (5, 64)), "more_x: expected a bfloat16 matrix"),
    ],
)
def test_the_memory_is_guarded(arguments, match):
    tensors = [low(*shape) for shape in arguments]
    with pytest.raises(RuntimeError, match=match):
        OPS.weight_product(*tensors, *[None] * (4 - len(tensors)))
