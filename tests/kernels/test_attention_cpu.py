"""The C++ maps of attention against plain float64 PyTorch, differentiated by PyTorch itself."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor

from alternet.kernels import native
from alternet.kernels.attention.cases import inputs, parameters

if native.unavailable_reason() is not None:
    pytest.skip(native.unavailable_reason(), allow_module_level=True)

from alternet.kernels.attention import cpu

from .maps import assert_same, check, directions, error, expected, pairs, run, tensors

OPS = torch.ops.alternet_native
ALL = (True, True, True, True)

# B, H, N, M, D, Dv: one row, window, ragged tiles, several tiles and tasks, wide heads, heads that fill no vector
SHAPES = [
    (2, 3, 1, 1, 1, 1),
    (3, 2, 49, 49, 32, 32),
    (1, 2, 197, 257, 64, 48),
    (2, 1, 300, 130, 17, 33),
    (9, 1, 600, 40, 8, 5),
    (1, 1, 70, 290, 256, 255),
]
# [B, H, N, M]: which axes the bias has; the others are broadcast
BROADCASTS = list(itertools.product((True, False), repeat=4))


def check_float64(shape, bias_axes=None, *, is_causal=False, hidden=False, count=2, scale=None):
    scale = shape[4] ** -0.5 if scale is None else scale
    return check(*tensors(shape, bias_axes, hidden=hidden, count=count), scale, is_causal)


@pytest.fixture(autouse=True)
def threads():
    """Sets the number of threads for one test: one, where the test asks for no more (these sizes are small)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_without_bias(shape, is_causal):
    check_float64(shape, is_causal=is_causal)


@pytest.mark.parametrize("bias_axes", BROADCASTS, ids=str)
def test_every_broadcast_of_the_bias(bias_axes):
    check_float64((3, 2, 150, 37, 8, 8), bias_axes)


@pytest.mark.parametrize("bias_axes", [(True, True, True, True), (False, True, True, True), (True, False, False, True)])
@pytest.mark.parametrize("shape", [(2, 2, 197, 257, 16, 24), (9, 1, 600, 40, 8, 5)], ids=str)
def test_bias_with_causal_mask(shape, bias_axes):
    check_float64(shape, bias_axes, is_causal=True)


@pytest.mark.parametrize("count", [1, 3])
def test_number_of_tangents(count):
    check_float64((2, 2, 65, 80, 24, 24), (False, True, True, True), count=count)


@pytest.mark.parametrize("scale", [0.0, -0.7, 4.0])
def test_any_scale(scale):
    """4.0 on 64 features: probabilities down to below the smallest normal number."""
    check_float64((1, 2, 80, 300, 64, 16), (True, True, True, True), scale=scale)


def test_far_apart_scores_rescale_the_sums():
    """Each tile of keys raises the running maximum by hundreds."""
    x, grad, tangents = tensors((1, 1, 20, 900, 4, 4))
    x[1][..., :] = torch.linspace(0, 1, 900, dtype=torch.float64)[:, None] * 500
    x[0][..., :] = x[0].abs()
    results, reference = run(x, grad, tangents, 1.0, False), expected(x, grad, tangents, 1.0, False)
    assert error(results["out"], reference["out"]) < 1e-11
    assert error(results["t_out"], reference["t_out"]) < 1e-11 * reference["t_out"].abs().max()


@pytest.mark.parametrize("is_causal", [False, True])
def test_queries_that_see_no_key(is_causal):
    results = check_float64((2, 2, 70, 90, 16, 8), ALL, is_causal=is_causal, hidden=True)
    assert (results["lse"][..., 0] == torch.inf).all()
    assert (results["t_lse"][..., 0] == 0).all()
    assert torch.isfinite(results["lse"][..., 1:]).any()
    for blind in (results["out"], results["t_out"], results["gradients"][0], results["t_gradients"][0]):
        assert (blind[..., 0, :] == 0).all()
    assert (results["gradients"][3][:, :, 0] == 0).all()


def test_keys_hidden_a_tile_at_a_time():
    """The first tiles of keys are hidden from every query: sums start late."""
    x, grad, tangents = tensors((1, 2, 80, 700, 8, 8), ALL)
    x[3][..., :600] = -torch.inf
    results, reference = run(x, grad, tangents, 0.3, False), expected(x, grad, tangents, 0.3, False)
    for name, ours, other in pairs(results, reference):
        assert error(ours, other) <= 1e-12 * max(1.0, other.abs().max().item()), name


@pytest.mark.parametrize("bias_axes", [None, ALL, (False, False, True, True)])
@pytest.mark.parametrize("shape", [(2, 3, 49, 49, 32, 32), (1, 1, 150, 290, 64, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype, shape, bias_axes):
    """At most twice the error of eager attention in the same dtype, plus four roundings of the largest number."""
    x, grad, tangents = tensors(shape, bias_axes, dtype=dtype)
    scale = shape[4] ** -0.5
    results, exact = run(x, grad, tangents, scale, False), expected(x, grad, tangents, scale, False)
    same_dtype = expected(x, grad, tangents, scale, False, dtype)
    eager_errors = {name: error(theirs, other) for name, theirs, other in pairs({**results, **same_dtype}, exact)}
    for name, ours, other in pairs(results, exact):
        assert ours.dtype == dtype
        floor = 4 * torch.finfo(dtype).eps * other.abs().max().item()
        assert error(ours, other) <= 2 * eager_errors[name] + floor, name
    assert results["lse"].dtype == results["t_lse"].dtype == torch.float32


def test_narrow_sums_are_taken_in_float32():
    """A bias shared by 64 heads: bfloat16 sums would be off by many roundings."""
    x, grad, tangents = tensors((8, 8, 30, 30, 8, 8), (False, False, True, True), dtype=torch.bfloat16)
    results, exact = run(x, grad, tangents, 0.3, False), expected(x, grad, tangents, 0.3, False)
    for kind in ("gradients", "t_gradients"):
        other = exact[kind][3]
        assert error(results[kind][3], other) <= 2 * torch.finfo(torch.bfloat16).eps * other.abs().max()


SUBSETS = ["".join(s) for n in range(1, 6) for s in itertools.combinations("qkvbg", n)]


@pytest.mark.parametrize("given", SUBSETS)
def test_missing_tangents_are_zeros(given):
    x, grad, tangents = tensors((2, 2, 67, 40, 8, 12), (False, True, True, True))
    tangents = tuple(t if "qkvb.g"[i] in given else None for i, t in enumerate(tangents))
    check(x, grad, tangents, 0.4)


@pytest.mark.parametrize("needs", list(itertools.product((True, False), repeat=4)), ids=str)
def test_only_what_is_needed(needs):
    x, grad, tangents = tensors((1, 2, 75, 40, 8, 12), (False, True, True, True))
    everything, some = run(x, grad, tangents, 0.4, False), run(x, grad, tangents, 0.4, False, (*needs, False))
    for kind in ("gradients", "t_gradients"):
        for need, full, part in zip(needs, everything[kind], some[kind], strict=False):
            assert (part is not None) == need
            assert not need or torch.equal(full, part)


def _tokens_first(t: Tensor) -> Tensor:
    return t.transpose(-3, -2).contiguous().transpose(-3, -2)


def _features_first(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT


def _every_other(t: Tensor) -> Tensor:
    wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan, dtype=t.dtype)
    wide[..., ::2] = t
    return wide[..., ::2]


def _off_by_one(t: Tensor) -> Tensor:
    flat = torch.empty(t.numel() + 1, dtype=t.dtype)
    flat[1:] = t.flatten()
    return flat[1:].view(t.shape)


def every(change, given):
    return tuple(None if t is None else change(t) for t in given)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [_tokens_first, _features_first, _every_other, _off_by_one])
def test_any_strides_give_the_same_numbers(layout, dtype):
    x, grad, tangents = tensors((2, 3, 70, 45, 32, 16), ALL, dtype=dtype)
    straight = run(x, grad, tangents, 0.3, False)
    strided = run(every(layout, x), layout(grad), every(layout, tangents), 0.3, False)
    for (name, a, _), (_, b, _) in zip(pairs(straight, straight), pairs(strided, strided), strict=True):
        assert b.is_contiguous(), name
        assert torch.equal(a, b), name


def test_expanded_inputs_are_read_with_stride_zero():
    x, grad, tangents = tensors((2, 2, 40, 50, 8, 8), ALL)
    x = (x[0][:1].expand(2, -1, -1, -1), x[1][..., :1].expand_as(x[1]), x[2], x[3][:, :, :1].expand_as(x[3]), None)
    grad = grad[..., :1, :1].expand_as(grad)
    tangents = every(lambda t: t[:1].expand_as(t), tangents)
    strided = run(x, grad, tangents, 0.3, False)
    copied = run(
        every(torch.Tensor.contiguous, x), grad.contiguous(), every(torch.Tensor.contiguous, tangents), 0.3, False
    )
    assert_same(copied, strided)


@pytest.mark.parametrize("bias_axes", [None, ALL, (False, False, False, True), (False, True, True, True)])
@pytest.mark.parametrize("shape", [(1, 1, 300, 200, 16, 16), (5, 2, 600, 50, 16, 16)], ids=str)
def test_results_do_not_depend_on_threads(threads, shape, bias_axes):
    x, grad, tangents = tensors(shape, bias_axes, dtype=torch.float32)
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(run(x, grad, tangents, 0.3, True))
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias_axes", [None, (False, True, True, True), (True, False, False, True)])
def test_nothing_uninitialised_is_read_or_returned(bias_axes, dtype):
    """Fresh memory, the kernels' scratch included, is filled with NaN: the results stay what they were."""
    x, grad, tangents = tensors((2, 2, 150, 75, 20, 12), bias_axes, dtype=dtype)
    before = run(x, grad, tangents, 0.3, True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        after = run(x, grad, tangents, 0.3, True)
    finally:
        torch.use_deterministic_algorithms(False)
    for (name, a, _), (_, b, _) in zip(pairs(before, before), pairs(after, after), strict=True):
        assert torch.isfinite(b).all(), name
        assert torch.equal(a, b), name


@pytest.mark.parametrize("axis", ["batch", "heads", "queries", "keys"])
@pytest.mark.parametrize("bias_axes", [None, ALL, (False, True, True, True)])
def test_empty_axes(axis, bias_axes):
    sizes = {"batch": 2, "heads": 3, "queries": 5, "keys": 7}
    sizes[axis] = 0
    x, grad, tangents = tensors((*sizes.values(), 4, 6), bias_axes)
    results, reference = run(x, grad, tangents, 0.5, False), expected(x, grad, tangents, 0.5, False)
    for name, ours, other in pairs(results, reference):
        assert ours.shape == other.shape, name
        assert (ours == 0).all(), name
    assert (results["lse"] == torch.inf).all()
    assert results["lse"].shape == (sizes["batch"], sizes["heads"], sizes["queries"])


def test_nan_stays_in_its_query():
    x, grad, tangents = tensors((1, 1, 80, 40, 8, 8), dtype=torch.float32)
    x[0][0, 0, 7, 3] = torch.nan
    results = run(x, grad, tangents, 0.3, False)
    for by_query in (results["out"], results["t_out"], results["gradients"][0], results["t_gradients"][0]):
        hit = by_query.isnan().all(-1).reshape(-1, 80)
        assert hit[:, 7].all()
        assert hit.sum() == len(hit)
    for by_key in (*results["gradients"][1:3], *results["t_gradients"][1:3]):
        assert by_key.isnan().all()


@pytest.mark.parametrize("name", OPS.instruction_sets())
def test_every_instruction_set_of_this_processor(name):
    before = OPS.use_instruction_set(name)
    try:
        check_float64((2, 2, 130, 77, 20, 36), (False, True, True, True), is_causal=True)
        check_float64((1, 1, 75, 400, 64, 64))
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            test_narrow_dtypes(dtype, (2, 3, 49, 65, 32, 24), ALL)
    finally:
        assert OPS.use_instruction_set(before) == name


def test_unknown_instruction_set():
    with pytest.raises(RuntimeError, match="instruction set 'mmx' is unknown"):
        OPS.use_instruction_set("mmx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(1, 2, 6, 5)}, "key: size 5 of axis 3, expected 4"),
        ({"value": torch.zeros(1, 2, 7, 4)}, "value: size 7 of axis 2, expected 6"),
        ({"bias": torch.zeros(1, 2, 5, 3)}, "bias: size 3 of axis 3, expected 6"),
        ({"bias": torch.zeros(6)}, "bias: expected 4 axes, got 1"),
        ({"value": torch.zeros(1, 2, 6, 4, dtype=torch.float64)}, "value: its dtype"),
        ({"value": torch.zeros(1, 2, 6, 300)}, "value: head size 300"),
    ],
)
def test_shapes_that_would_leave_the_memory_raise(change, message):
    x = {"query": torch.zeros(1, 2, 5, 4), "key": torch.zeros(1, 2, 6, 4), "value": torch.zeros(1, 2, 6, 4)}
    with pytest.raises(RuntimeError, match=message):
        cpu.forward(**{**x, "bias": None, "table": None, **change}, **parameters(1.0))


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_peak_memory_is_far_below_a_matrix_of_scores():
    """All four maps at N = 4096, with a table, add less than a half of one matrix of scores (64 MiB)."""
    program = """
        import resource, sys, torch
        from alternet.kernels.attention import cpu
        torch.set_num_threads(2)
        unit = 1 if sys.platform == "darwin" else 1024

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

        def maps(n):
            q, k, v, g, tq, tk, tv, tg = torch.randn(8, 1, 1, n * n, 64).unbind()
            table, tt = torch.randn(2, 1, 1, 2 * n - 1, 2 * n - 1).unbind()
            options = {"scale": 0.125, "is_causal": False, "grid": (n, n), "kernel_size": ()}
            before = peak()
            out, lse = cpu.forward(q, k, v, None, table, **options)
            t = (tq[None], tk[None], tv[None], None, tt[None])
            t_out, t_lse = cpu.tangent(q, k, v, None, table, out, lse, *t, **options)
            needs = (True, True, True, False, True)
            a = cpu.backward(q, k, v, None, table, out, lse, g, **options, needs=needs)
            x = (q, k, v, None, table, out, lse, g)
            b = cpu.backward_tangent(*x, *t, t_out, t_lse, tg[None], **options, needs=needs)
            return peak() - before

        maps(8)
        print(maps(64))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4096 * 4096 * 4 / 2


def grouped(shape, key_heads, dtype=torch.float64):
    x = *inputs(*shape, (1, shape[1], 1, shape[3]), key_heads=key_heads, dtype=dtype), None
    return x, *directions(x)


@pytest.mark.parametrize("shape", [(2, 6, 40, 50, 8, 12), (1, 6, 300, 70, 16, 8)], ids=str)
@pytest.mark.parametrize("key_heads", [1, 2, 3])
@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_queries(shape, key_heads, is_causal):
    check(*grouped(shape, key_heads), 0.4, is_causal)


def test_grouped_gradients_do_not_depend_on_threads_nor_on_narrow_sums(threads):
    x, grad, tangents = grouped((2, 12, 300, 70, 16, 8), 2, torch.bfloat16)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(run(x, grad, tangents, 0.3, False))
    exact = expected(x, grad, tangents, 0.3, False)
    for (name, a, other), (_, b, _) in zip(pairs(results[0], exact), pairs(results[1], exact), strict=True):
        assert torch.equal(a, b), name
        assert error(a, other) <= 8 * torch.finfo(torch.bfloat16).eps * other.abs().max(), name


def test_heads_that_do_not_group():
    with pytest.raises(RuntimeError, match="key: 2 heads do not divide query's 3"):
        cpu.forward(*inputs(1, 3, 4, 4, 4, 4, key_heads=2), None, **parameters(1.0))
