"""Window attention against one dense attention over all pixels with the other windows masked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from alternet.kernels import window_attention

HEADS = 2
# height, width, window, shift: dividing, not dividing, larger than the map, shifted by more than a window, one pixel
SIZES = [
    (8, 8, (4, 4), (0, 0)),
    (7, 10, (4, 3), (0, 0)),
    (8, 8, (4, 4), (2, 2)),
    (7, 5, (3, 4), (1, 3)),
    (2, 3, (4, 4), (1, 0)),
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
    if height == 8:  # else a view of the padded map
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
        ({"window_size": 0}, "window_size: expected at least 1, got 0"),
        ({"window_size": (2, 2, 2)}, r"window_size: expected one or two integers, got \(2, 2, 2\)"),
        ({"shift": -1}, "shift: expected at least 0, got -1"),
        ({"table": torch.zeros(3, 5, dtype=torch.float64)}, r"table: shape \(3, 5\), expected \(3, 3\)"),
    ],
)
def test_bad_input_gets_one_clear_error(change, message):
    query, key, value = MAPS
    arguments = {"query": query, "key": key, "value": value, "window_size": 2, "num_heads": 2}
    with pytest.raises((TypeError, ValueError), match=message):
        window_attention(**{**arguments, **change})
