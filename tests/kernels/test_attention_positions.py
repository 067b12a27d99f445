"""Tables of relative positions and neighbourhoods in the C++ maps, against plain float64 PyTorch."""

from __future__ import annotations

import itertools

import pytest
import torch

from alternet.kernels import native
from alternet.kernels.attention import positions
from alternet.kernels.attention.cases import neighbours, on_grid, relative_position_bias

if native.unavailable_reason() is not None:
    pytest.skip(native.unavailable_reason(), allow_module_level=True)

from alternet.kernels.attention import cpu

from .maps import assert_same, check, directions, error, expected, pairs, run

# one token, one row, one column, a window, ragged tiles, several tiles, several tasks of one head
GRIDS = [(1, 1), (1, 7), (7, 1), (4, 4), (7, 7), (5, 19), (13, 16), (40, 16)]
LEADS = [(1, 1), (1, 3), (2, 1), (2, 3)]
KERNELS = [(1, 1), (3, 3), (2, 4), (1, 9), (40, 3)]


def problem(grid, lead=(1, 1), bias=None, *, batch=2, heads=3, size=8, count=2, dtype=torch.float64):
    x = on_grid(batch, heads, grid, size, lead, bias, dtype=dtype)
    return x, *directions(x, count)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (4, 3)], ids=str)
def test_convention(grid):
    """The formulas of the issue, entry by entry."""
    (h, w), table = grid, torch.randn(2 * grid[0] - 1, 2 * grid[1] - 1)
    bias, seen = positions.gather(table, grid), ~positions.hidden(grid, (2, 3), table.device)
    for i, j in itertools.product(range(h * w), repeat=2):
        down, right = j // w - i // w, j % w - i % w
        assert bias[i, j] == table[down + h - 1, right + w - 1]
        assert seen[i, j] == (0 <= down <= 1 and -1 <= right <= 1)  # even sizes reach down and right
    assert torch.equal(relative_position_bias(table, grid), bias)
    assert torch.equal(neighbours(grid, (2, 3)), seen)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_grids(grid, is_causal):
    check(*problem(grid, (1, 2), heads=2), 0.4, is_causal, grid=grid)


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("bias", [None, (2, 3, 56, 56), (2, 1, 1, 56)], ids=str)
def test_tables_shared_or_not_beside_a_bias(lead, bias):
    check(*problem((7, 8), lead, bias), 0.4, grid=(7, 8))


@pytest.mark.parametrize("grid", [(4, 4), (13, 16)], ids=str)
@pytest.mark.parametrize("kernel_size", KERNELS, ids=str)
def test_neighbourhoods(grid, kernel_size):
    x, grad, tangents = problem(grid, heads=1)
    check(x, grad, tangents, 0.4, grid=grid, kernel_size=kernel_size)
    check((*x[:4], None), grad, (*tangents[:4], None, tangents[5]), 0.4, True, grid=grid, kernel_size=kernel_size)


@pytest.mark.parametrize("count", [1, 3])
def test_number_of_tangents(count):
    check(*problem((5, 13), (1, 3), (1, 3, 65, 65), count=count), 0.3, grid=(5, 13), kernel_size=(3, 6))


@pytest.mark.parametrize("given", ["t", "tg", "qt", "vt", "bt", "g", "kv", "qkvbg"])
def test_missing_tangents_are_zeros(given):
    x, grad, tangents = problem((5, 7), (1, 3), (1, 1, 35, 35))
    tangents = tuple(t if "qkvbtg"[i] in given else None for i, t in enumerate(tangents))
    check(x, grad, tangents, 0.4, grid=(5, 7))


@pytest.mark.parametrize("needs", ["t", "qt", "kv", "bt", "vt", ""])
def test_only_what_is_needed(needs):
    x, grad, tangents = problem((5, 7), (1, 3), (1, 1, 35, 35))
    flags = tuple(name in needs for name in "qkvbt")
    every, some = (run(x, grad, tangents, 0.4, False, f, grid=(5, 7)) for f in (None, flags))
    for kind in ("gradients", "t_gradients"):
        for need, full, part in zip(flags, every[kind], some[kind], strict=True):
            assert (part is not None) == need
            assert not need or torch.equal(full, part)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tables_of_any_strides(dtype):
    x, grad, tangents = problem((5, 7), (2, 3), dtype=dtype)
    straight = run(x, grad, tangents, 0.3, False, grid=(5, 7))
    larger = torch.full((2, 3, 13, 19), torch.nan, dtype=dtype)  # a window smaller than the table was made for
    larger[..., 2:-2, 3:-3] = x[4]
    for table in (larger[..., 2:-2, 3:-3], x[4].mT.contiguous().mT):
        strided = run((*x[:4], table), grad, tangents, 0.3, False, grid=(5, 7))
        assert_same(straight, strided)


@pytest.mark.parametrize("kernel_size", [(), (3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype, kernel_size):
    """At most twice the error of eager attention in the same dtype, plus four roundings of the largest number."""
    x, grad, tangents = problem((7, 7), size=32, batch=8, dtype=dtype)
    options = {"grid": (7, 7), "kernel_size": kernel_size}
    results, exact = run(x, grad, tangents, 0.2, False, **options), expected(x, grad, tangents, 0.2, False, **options)
    same_dtype = expected(x, grad, tangents, 0.2, False, dtype, **options)
    eager_errors = {name: error(theirs, other) for name, theirs, other in pairs({**results, **same_dtype}, exact)}
    for name, ours, other in pairs(results, exact):
        assert ours.dtype == dtype
        floor = 4 * torch.finfo(dtype).eps * other.abs().max().item()
        assert error(ours, other) <= 2 * eager_errors[name] + floor, name


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_results_do_not_depend_on_threads(lead):
    grid = (40, 16)
    x, grad, tangents = problem(grid, lead, dtype=torch.float32)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(run(x, grad, tangents, 0.3, False, grid=grid, kernel_size=(21, 5)))
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("kernel_size", [(), (3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nothing_uninitialised_is_read_or_returned(dtype, kernel_size):
    """Fresh memory, the kernels' scratch included, is filled with NaN: the results stay what they were."""
    x, grad, tangents = problem((9, 13), (1, 3), dtype=dtype)
    options = {"grid": (9, 13), "kernel_size": kernel_size}
    before = run(x, grad, tangents, 0.3, True, **options)
    torch.use_deterministic_algorithms(True)
    try:
        after = run(x, grad, tangents, 0.3, True, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    for (name, a, _), (_, b, _) in zip(pairs(before, before), pairs(after, after), strict=True):
        assert torch.isfinite(b).all(), name
        assert torch.equal(a, b), name


def test_hidden_entries():
    x, grad, tangents = problem((3, 4), (1, 3))
    x[4][0, 0, 0] = -torch.inf
    check(x, grad, tangents, 0.4, grid=(3, 4))


def test_no_images():
    x, grad, tangents = problem((3, 4), (1, 3), batch=0)
    results = run(x, grad, tangents, 0.4, False, grid=(3, 4))
    for d in (results["gradients"][4], *results["t_gradients"][4]):
        assert torch.equal(d, torch.zeros_like(x[4]))


@pytest.mark.parametrize("name", torch.ops.alternet_native.instruction_sets())
def test_every_instruction_set_of_this_processor(name):
    before = torch.ops.alternet_native.use_instruction_set(name)
    try:
        check(*problem((9, 17), (1, 3), (2, 1, 1, 153), size=20), 0.3, grid=(9, 17), kernel_size=(4, 9))
        test_narrow_dtypes(torch.float32, ())
    finally:
        torch.ops.alternet_native.use_instruction_set(before)


@pytest.mark.parametrize(
    ("table", "grid", "kernel_size", "message"),
    [
        ((1, 1, 3, 5), [], [], "table: expected a grid"),
        ((1, 1, 3, 5), [3, 2], [], "table: size 3 of axis 2, expected 5"),
        ((1, 1, 3, 5), [2, 4], [], "grid: it does not have as many tokens"),
        ((2, 3, 5), [2, 3], [], "table: expected 4 axes"),
        (None, [], [3, 3], "kernel_size: expected a grid"),
        (None, [2, 3], [3], "expected pairs"),
    ],
)
def test_positions_that_would_leave_the_memory_raise(table, grid, kernel_size, message):
    q = torch.zeros(1, 2, 6, 4)
    with pytest.raises(RuntimeError, match=message):
        cpu.forward(
            q, q, q, None, None if table is None else torch.zeros(table),
            scale=1.0, is_causal=False, grid=grid, kernel_size=kernel_size,
        )  # fmt: skip
