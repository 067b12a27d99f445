"""bfloat16 attention by the processor's own products of it (AVX-512's pairs, AMX's tiles), against float64."""

from __future__ import annotations

import pytest
import torch

from alternet.kernels import native
from alternet.kernels.attention.cases import inputs, on_grid

if native.unavailable_reason() is not None:
    pytest.skip(native.unavailable_reason(), allow_module_level=True)

from .maps import assert_same, directions, error, expected, pairs, run, tensors

OPS = torch.ops.alternet_native
SETS = [name for name in OPS.instruction_sets() if name in ("avx512_bf16", "amx")]
if not SETS:
    pytest.skip("this processor has no products of bfloat16", allow_module_level=True)

# B, H, N, M, D, Dv: one number, exact tiles, one more than a tile, ragged in everything, several tiles and tasks
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 2, 32, 64, 32, 64),
    (2, 1, 33, 65, 17, 33),
    (1, 3, 197, 300, 40, 24),
    (9, 1, 600, 40, 8, 5),
    (1, 1, 70, 330, 256, 255),
]
ALL, SHARED = (True, True, True, True), (False, True, True, True)


@pytest.fixture(autouse=True, params=SETS)
def instruction_set(request):
    threads, before = torch.get_num_threads(), OPS.use_instruction_set(request.param)
    torch.set_num_threads(1)
    yield request.param
    OPS.use_instruction_set(before)
    torch.set_num_threads(threads)


def check(x, grad, tangents, scale=0.3, is_causal=False, needs=None, **positions):
    """At most twice the error of eager attention in bfloat16, plus four roundings of the largest number."""
    results = run(x, grad, tangents, scale, is_causal, needs, **positions)
    exact = expected(x, grad, tangents, scale, is_causal, **positions)
    eager = expected(x, grad, tangents, scale, is_causal, torch.bfloat16, **positions)
    eager_errors = {name: error(theirs, other) for name, theirs, other in pairs({**results, **eager}, exact)}
    for name, ours, other in pairs(results, exact):
        floor = 4 * torch.finfo(torch.bfloat16).eps * other.abs().max().item()
        assert error(ours, other) <= 2 * eager_errors[name] + floor, name
    return results


@pytest.mark.parametrize("bias_axes", [None, ALL, SHARED])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_map(shape, is_causal, bias_axes):
    check(*tensors(shape, bias_axes, dtype=torch.bfloat16, count=1), shape[4] ** -0.5, is_causal)


@pytest.mark.parametrize("kernel_size", [(), (3, 3), (2, 5)], ids=str)
def test_tables_and_neighbourhoods(kernel_size):
    """Rows of neighbourhoods begin at any key, tiles of products at every 32nd."""
    x = on_grid(1, 2, (13, 9), 20, (1, 2), dtype=torch.bfloat16)
    check(x, *directions(x), grid=(13, 9), kernel_size=kernel_size)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_queries(key_heads):
    x = *inputs(2, 4, 75, 50, 24, 12, None, key_heads=key_heads, dtype=torch.bfloat16), None
    check(x, *directions(x))


@pytest.mark.parametrize("given", ["q", "k", "v", "b", "g", "qg", "kv", "vbg", "qkvbg"])
def test_missing_tangents_are_zeros(given):
    x, grad, tangents = tensors((1, 2, 67, 45, 20, 12), ALL, dtype=torch.bfloat16)
    check(x, grad, tuple(t if "qkvb.g"[i] in given else None for i, t in enumerate(tangents)))


def test_queries_that_see_no_key():
    results = run(*tensors((2, 2, 70, 90, 16, 8), ALL, hidden=True, dtype=torch.bfloat16), 0.3, False)
    assert (results["lse"][..., 0] == torch.inf).all()
    for blind in (results["out"], results["t_out"], results["gradients"][0], results["t_gradients"][0]):
        assert (blind[..., 0, :] == 0).all()
        assert torch.isfinite(blind).all()


def test_strides_are_read_where_they_lie():
    x, grad, tangents = tensors((2, 3, 70, 45, 32, 17), ALL, dtype=torch.bfloat16)
    other = lambda t: None if t is None else t.transpose(-1, -2).contiguous().transpose(-1, -2)  # noqa: E731
    straight = run(x, grad, tangents, 0.3, False)
    strided = run(tuple(map(other, x)), other(grad), tuple(map(other, tangents)), 0.3, False)
    assert_same(straight, strided)


def test_nothing_uninitialised_is_read():
    """Fresh memory is filled with NaN: rows and columns that pad the tiles must not count."""
    x, grad, tangents = tensors((2, 2, 50, 75, 20, 12), SHARED, dtype=torch.bfloat16)
    before = run(x, grad, tangents, 0.3, True)
    torch.use_deterministic_algorithms(True)
    try:
        after = run(x, grad, tangents, 0.3, True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(before, after)


def test_nan_stays_in_its_query():
    x, grad, tangents = tensors((1, 1, 80, 40, 8, 8), dtype=torch.bfloat16)
    x[0][0, 0, 7, 3] = torch.nan
    results = run(x, grad, tangents, 0.3, False)
    for by_query in (results["out"], results["t_out"], results["gradients"][0], results["t_gradients"][0]):
        hit = by_query.isnan().all(-1).reshape(-1, 80)
        assert hit[:, 7].all()
        assert hit.sum() == len(hit)


def test_results_do_not_depend_on_threads():
    x, grad, tangents = tensors((3, 2, 600, 50, 16, 16), SHARED, dtype=torch.bfloat16)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(run(x, grad, tangents, 0.3, True))
    for other in results[1:]:
        assert_same(results[0], other)


def test_other_products_between_ours():
    """PyTorch's library sets the tiles up for itself, and finds them as it needs them."""
    a = torch.randn(64, 64, dtype=torch.bfloat16)
    want = a @ a
    x, grad, tangents = tensors((1, 2, 49, 49, 32, 32), dtype=torch.bfloat16)
    first = run(x, grad, tangents, 0.3, False)
    assert torch.equal(a @ a, want)
    again = run(x, grad, tangents, 0.3, False)
    assert torch.equal(first["out"], again["out"])
    assert torch.equal(a @ a, want)
