"""Window attention against one dense attention over all pixels with the other windows masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from alternet.kernels import available_backends, window_attention
from alternet.kernels.window_attention import cases

HEADS = 2
# height, width, window, shift: dividing, not dividing, larger than the map, shifted by more than a window, one pixel
SIZES = [
    (8, 8, (4, 4), (0, 0)),
    (7, 10, (4, 3), (0, 0)),
    (8, 8, (4, 4), (2, 2)),
    (7, 5, (3, 4), (1, 3)),
    (2, 3, (4, 4), (1, 0)),
    (9, 3, (12, 4), (16, 5)),
    (5, 6, (2, 3), (5, 7)),
    (1, 1, (1, 1), (0, 0)),
]


def dense(query, key, value, table, *, window, shift, same=None):
    """From the definition; ``same`` [HW, HW] says which pixels see each other, if not those of one window."""
    height, width = query.shape[-2:]
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    if same is None:
        of_row, of_column = (row - shift[0]) // window[0], (column - shift[1]) // window[1]
        same = (of_row[:, None] == of_row) & (of_column[:, None] == of_column)
    q, k, v = (t.flatten(2).unflatten(1, (HEADS, -1)).mT for t in (query, key, value))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if table is not None:
        down, right = row - row[:, None], column - column[:, None]
        scores = scores + table[..., down.clamp(1 - window[0], window[0] - 1) + window[0] - 1,
                                right.clamp(1 - window[1], window[1] - 1) + window[1] - 1]  # fmt: skip
    out = scores.masked_fill(~same, -torch.inf).softmax(-1) @ v
    return out.mT.flatten(1, 2).unflatten(-1, (height, width))


def inputs(height: int, width: int, window: tuple[int, int], lead: tuple[int, ...] = (HEADS,)) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps = (normal(2, HEADS * size, height, width) for size in (3, 3, 4))
    return *maps, normal(*lead, *(2 * n - 1 for n in window))


def pair(window, shift):
    def ours(query, key, value, table):
        return window_attention(query, key, value, window_size=window, shift=shift, num_heads=HEADS, table=table)

    def theirs(*x):
        return dense(*x, window=window, shift=shift)

    return ours, theirs


def close(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("height", "width", "window", "shift"), SIZES)
@pytest.mark.parametrize("lead", [(), (HEADS,)], ids=["shared", "per head"])
def test_value_and_hessian_vector_product(height, width, window, shift, lead, backend):
    x = inputs(height, width, window, lead)
    ours, theirs = pair(window, shift)
    close(ours(*x), theirs(*x))

    def product(f):
        return jvp(grad(lambda *x: f(*x).pow(3).sum(), argnums=(0, 1, 2, 3)), x, tuple(t.sin() for t in x))

    close(product(ours), product(theirs))


def test_without_a_table():
    query, key, value, _ = inputs(7, 6, (3, 3))
    ours, theirs = pair((3, 3), (1, 1))
    close(ours(query, key, value, None), theirs(query, key, value, None))


def test_double_backward_and_vmap():
    ours, theirs = pair((3, 2), (1, 1))
    x = [t.requires_grad_() for t in inputs(5, 6, (3, 2))]

    def twice(f):
        first = torch.autograd.grad(f(*x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(sum((g * g.detach().cos()).sum() for g in first), x)

    close(twice(ours), twice(theirs))
    stacked = torch.stack([x[0].detach(), x[0].detach().flip(0)])
    close(vmap(lambda q: ours(q, *x[1:]))(stacked), torch.stack([theirs(q, *x[1:]) for q in stacked]))


def test_shift_is_swins():
    """Roll the map, attend within windows and, where the border wraps round, within what was together; roll back."""
    x, w, s = inputs(8, 12, (4, 4)), 4, 1
    region = torch.zeros(8, 12, dtype=torch.long)
    cuts = (slice(0, -w), slice(-w, -s), slice(-s, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[rows, columns] = 3 * i + j
    window = torch.arange(8)[:, None] // w * 3 + torch.arange(12) // w
    label = (region * 100 + window).flatten()
    rolled = (t.roll((-s, -s), (2, 3)) for t in x[:3])
    theirs = dense(*rolled, x[3], window=(w, w), shift=(0, 0), same=label[:, None] == label).roll((s, s), (2, 3))
    close(pair((w, w), (s, s))[0](*x), theirs)


@pytest.mark.parametrize("height", [7, 8])
def test_memory_formats(height):
    x = inputs(height, 8, (4, 4))
    ours, _ = pair((4, 4), (0, 0))
    last = ours(*(t.to(memory_format=torch.channels_last) for t in x[:3]), x[3])
    close(last, ours(*x))
    close(ours(x[0], x[1].to(memory_format=torch.channels_last), x[2].mT.contiguous().mT, x[3]), ours(*x))
    assert ours(*x).is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


MAPS = (*inputs(4, 4, (2, 2))[:3],)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": MAPS[0][0]}, r"query: shape \(6, 4, 4\), expected \[B, C, H, W\]"),
        ({"key": MAPS[1][:, :5]}, r"key: shape \(2, 5, 4, 4\), expected .* multiple of num_heads = 2"),
        ({"value": MAPS[2][:, :, :3]}, r"value: shape \(2, 8, 3, 4\), expected query's B, H and W"),
        ({"value": [1.0]}, "value: expected a tensor, got list"),
        ({"query": MAPS[0][:, :, :0], "key": MAPS[1][:, :, :0], "value": MAPS[2][:, :, :0]}, "at least one pixel"),
        ({"num_heads": 0}, "num_heads: expected a positive integer, got 0"),
        ({"num_heads": 2.0}, "num_heads: expected an integer, got 2.0"),
        ({"window_size": 0}, "window_size: expected one or two integers, 1 or more, got 0"),
        ({"window_size": True}, "window_size: expected one or two integers, 1 or more, got True"),
        ({"num_heads": True}, "num_heads: expected an integer, got True"),
        ({"window_size": (2, 2, 2)}, r"window_size: expected one or two integers, 1 or more, got \(2, 2, 2\)"),
        ({"shift": -1}, "shift: expected one or two integers, 0 or more, got -1"),
        ({"shift": (0, 0.5)}, r"shift: expected one or two integers, 0 or more, got \(0, 0.5\)"),
        ({"scale": "a"}, "scale: expected a number, got 'a'"),
        ({"scale": float("inf")}, "scale: got inf, expected a finite number"),
        ({"key": MAPS[1][:, :4]}, "key: 4 channels, expected query's 6"),
        ({"key": MAPS[1].float()}, "key: dtype torch.float32, expected query's dtype torch.float64"),
        ({"query": torch.zeros(1, 600, 2, 2), "key": torch.zeros(1, 600, 2, 2)}, "head size 300, expected 1 to 256"),
        ({"table": torch.zeros(3, 3, 3, dtype=torch.float64)}, "table: 3 heads, expected 1 or 2"),
        ({"table": torch.zeros(3, 5, dtype=torch.float64)}, r"table: shape \(3, 5\), expected \(3, 3\)"),
    ],
)
def test_bad_input_gets_one_clear_error(change, message):
    query, key, value = MAPS
    arguments = {"query": query, "key": key, "value": value, "window_size": 2, "num_heads": 2}
    with pytest.raises((TypeError, ValueError), match=message):
        window_attention(**{**arguments, **change})


def test_sizes_are_any_integers():
    sizes = {"window_size": (np.int64(2), torch.tensor(3)), "shift": np.int32(1), "num_heads": np.int64(2)}
    close(window_attention(*MAPS, **sizes), window_attention(*MAPS, window_size=(2, 3), shift=1, num_heads=2))


# batch, heads, sizes of heads, pixels, window, shift, table, channels last, tangents
KERNEL_CALLS = [
    (2, 2, (8, 8), (8, 12), (4, 4), (0, 0), (1, 2), False, 1),  # whole windows
    (2, 2, (8, 16), (14, 7), (7, 7), (0, 0), (2, 1), False, 3),
    (1, 2, (9, 5), (10, 11), (4, 3), (1, 2), (1, 1), False, 2),  # clipped on every side
    (1, 2, (9, 17), (10, 11), (4, 3), (1, 2), (1, 2), True, 2),
    (1, 1, (20, 20), (18, 16), (16, 16), (3, 0), (1, 1), False, 1),  # the largest windows
    (1, 3, (1, 1), (2, 3), (8, 8), (0, 0), None, False, 2),  # one, larger than the map
    (0, 2, (4, 4), (4, 4), (2, 2), (0, 0), (1, 1), False, 1),
    (5, 3, (4, 4), (9, 6), (2, 3), (0, 0), (1, 3), False, 1),  # so many strips that a thread takes several
]


def maps_of(backend, x, grad, tangents, options, needs):
    """All four maps."""
    (y,) = backend.forward(*x, **options)
    (t_y,) = backend.tangent(*x, y, *tangents[:4], **options)
    first = backend.backward(*x, y, grad, **options, needs=needs)
    return (
        y,
        t_y,
        *first,
        *backend.backward_tangent(*x, y, grad, *tangents[:4], t_y, tangents[4], **options, needs=needs),
    )


@pytest.mark.skipif(available_backends()["cpu"] is not None, reason="no C++ kernels")
@pytest.mark.parametrize("call", KERNEL_CALLS, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 3e-5), (torch.bfloat16, 5e-2)])
def test_kernels_against_the_reference(call, dtype, bound):
    """In every instruction set that runs here, on any number of threads, and from operands of any strides."""
    from alternet.kernels.window_attention import cpu, reference

    batch, heads, sizes, pixels, window, shift, table, last, count = call
    shape = None if table is None else (*table, *(2 * n - 1 for n in window))
    x = cases.inputs(batch, heads, *sizes, pixels, shape, channels_last=last, dtype=dtype)
    generator = torch.Generator().manual_seed(1)

    def directions(*lead: int, like) -> list[Tensor | None]:
        return [
            None if t is None else torch.randn(*lead, *t.shape, generator=generator, dtype=torch.float64).to(dtype)
            for t in like
        ]

    (grad,), tangents = directions(like=x[2:3]), directions(count, like=(*x, x[2]))
    options, needs = cases.parameters(window, 0.4, shift, last), (True, True, True, table is not None)

    def double(tensors):
        return [None if t is None else t.double() for t in tensors]

    expected = maps_of(reference, double(x), grad.double(), double(tangents), options, needs)

    def check(results):
        for mine, theirs in zip(results, expected, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None and mine.numel():
                assert mine.shape == theirs.shape
                assert (mine - theirs).abs().max() <= bound * max(1.0, theirs.abs().max())
        return [t for t in results if t is not None]

    usual = check(maps_of(cpu, x, grad, tangents, options, needs))
    ops, before = torch.ops.alternet_native, torch.get_num_threads()
    for name in ops.instruction_sets():
        usual_set = ops.use_instruction_set(name)
        try:
            check(maps_of(cpu, x, grad, tangents, options, needs))
        finally:
            ops.use_instruction_set(usual_set)
    torch.set_num_threads(3 if before != 3 else 2)
    try:
        again = check(maps_of(cpu, x, grad, tangents, options, needs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(usual, again, strict=True))
    spread = [None if t is None else t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in x]
    check(maps_of(cpu, spread, grad, tangents, options, needs))


# which of query, key, value, table and the cotangent move; which gradients are needed
GAPS = [
    ((1, 1, 1, 1, 1), (1, 1, 1, 1)),
    ((1, 0, 0, 0, 1), (0, 1, 0, 1)),
    ((0, 1, 0, 1, 0), (1, 0, 1, 0)),
    ((0, 0, 1, 0, 0), (0, 0, 1, 1)),
    ((0, 0, 0, 1, 1), (0, 0, 1, 0)),
    ((1, 1, 1, 0, 1), (0, 0, 0, 0)),
]


@pytest.mark.skipif(available_backends()["cpu"] is not None, reason="no C++ kernels")
@pytest.mark.parametrize("call", KERNEL_CALLS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 3])
def test_a_map_and_its_tangent_at_once(call, dtype, count):
    """The numbers of the maps one after the other, whatever moves and whatever is needed."""
    from alternet.kernels.window_attention import cpu

    batch, heads, sizes, pixels, window, shift, table, last, _ = call
    shape = None if table is None else (*table, *(2 * n - 1 for n in window))
    x, other = (
        cases.inputs(batch, heads, *sizes, pixels, shape, channels_last=last, dtype=dtype, seed=seed)
        for seed in range(2)
    )
    grad, options = other[2], cases.parameters(window, 0.4, shift, last)
    given = [None if t is None else torch.stack([t.sin() * k for k in range(1, count + 1)]) for t in (*other, x[2])]
    for moves, wanted in GAPS:
        t = [t if flag else None for t, flag in zip(given, moves, strict=True)]
        if all(t is None for t in t[:4]):  # only the table was to move, and there is none
            continue
        needs = tuple(bool(flag) and t is not None for t, flag in zip(x, wanted, strict=True))
        (y,) = cpu.forward(*x, **options)
        (t_y,) = cpu.tangent(*x, y, *t[:4], **options)
        second = (*x, y, grad, *t[:4], t_y, t[4])
        first = cpu.backward(*x, y, grad, **options, needs=needs)
        apart = y, t_y, *first, *cpu.backward_tangent(*second, **options, needs=needs)
        joint = (
            *cpu.forward_and_tangent(*x, *t[:4], **options),
            *cpu.backward_and_tangent(*second, **options, needs=needs),
        )
        for a, b in zip(joint, apart, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a.is_contiguous() and torch.equal(a, b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_queries_whose_every_key_the_table_hides(dtype, backend):
    """Zeros, as attention has it, and no share in any gradient."""
    query, key, value, table = (t.to(dtype) for t in inputs(5, 6, (2, 3)))
    table = torch.full_like(table, -torch.inf)
    table[..., -1, -1] = 0.0  # the first pixel of a whole window sees the last, nobody else sees any
    x = query, key, value

    def ours(*x):
        return window_attention(*x, window_size=(2, 3), num_heads=HEADS, table=table)

    sees = torch.zeros(5, 6, dtype=torch.bool)
    sees[:4:2, ::3] = True
    expected = torch.where(sees, value.roll((-1, -2), (2, 3)), 0)
    torch.testing.assert_close(ours(*x), expected)
    first = grad(lambda *x: ours(*x).pow(3).sum(), argnums=(0, 1, 2))
    seen = torch.where(sees.roll((1, 2), (0, 1)), value, 0)
    nothing, square = torch.zeros_like(query), seen.square()
    torch.testing.assert_close(jvp(first, x, x), ((nothing, nothing, 3 * square), (nothing, nothing, 6 * square)))


def test_windows_too_large_for_the_kernels():
    """They are cut by PyTorch; the answers are the same."""
    x = inputs(20, 19, (17, 17))
    ours, theirs = pair((17, 17), (5, 3))
    close(ours(*x), theirs(*x))
    last = ours(*(t.to(memory_format=torch.channels_last) for t in x[:3]), x[3])
    close(last, theirs(*x))


@pytest.mark.parametrize("pixels", [(5, 4), (18, 17)])
def test_a_window_far_larger_than_the_map_is_the_map(pixels, backend):
    query, key, value, _ = inputs(*pixels, (1, 1))
    size = 1 << 40
    mine = window_attention(query, key, value, window_size=size, shift=(3, size - 1), num_heads=HEADS)
    close(mine, dense(query, key, value, None, window=(size, size), shift=(3, size - 1)))


def test_compiles_whole():
    ours, theirs = pair((3, 4), (1, 0))
    x = inputs(5, 6, (3, 4))

    def product(f):
        return jvp(grad(lambda q: f(q, *x[1:]).pow(3).sum()), x[:1], x[:1])[1]

    close(torch.compile(lambda: product(ours), fullgraph=True, backend="aot_eager")(), product(theirs))


def test_autocast_runs_in_the_lower_precision():
    query, key, value, table = (t.float() for t in inputs(6, 6, (3, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        out = window_attention(query, key, value, window_size=3, num_heads=HEADS, table=table)
    assert out.dtype == torch.bfloat16
    exact = dense(query, key, value, table, window=(3, 3), shift=(0, 0))
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
