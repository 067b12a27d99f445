"""Products of float32 matrices in the tiles of AMX, against float64, and torch.mm by them."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch.func import grad, jvp, vmap

from alternet.kernels import native, tile_products

OPS = torch.ops.alternet_native
HAS_TILES = native.unavailable_reason() is None and "amx" in OPS.instruction_sets()
needs_tiles = pytest.mark.skipif(not HAS_TILES, reason="this processor has no AMX")

# rows, columns, depth: one number, less than a tile, exact blocks, ragged in everything, cut in depth and in columns
SIZES = [
    (1, 1, 1),
    (5, 3, 7),
    (32, 32, 32),
    (64, 96, 384),
    (33, 65, 31),
    (100, 47, 129),
    (788, 192, 192),
    (40, 1000, 500),
    (48, 64, 3000),
    (33, 1, 4100),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def factor(rows: int, columns: int, layout: str, seed: int) -> torch.Tensor:
    if layout == "rows":
        return normal(rows, columns, seed=seed)
    if layout == "columns":
        return normal(columns, rows, seed=seed).t()
    return normal(rows, columns + 5, seed=seed)[:, 2 : columns + 2]  # rows with gaps, off any boundary


def error(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    exact = a.double() @ b.double()
    return ((product - exact).norm() / exact.norm()).item()


@needs_tiles
@pytest.mark.parametrize("right", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("left", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_as_exact_as_float32(size, left, right):
    rows, columns, depth = size
    a, b = factor(rows, depth, left, 0), factor(depth, columns, right, 1)
    product = OPS.matrix_product(a, b)
    assert product.shape == (rows, columns)
    assert product.is_contiguous()
    assert error(product, a, b) <= max(1.2 * error(a @ b, a, b), 2e-7)


@needs_tiles
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_the_same_on_any_number_of_threads(size):
    rows, columns, depth = size
    a, b = normal(rows, depth), normal(depth, columns, seed=1)
    before, products = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            products.append(OPS.matrix_product(a, b))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(product, products[0]) for product in products)


@needs_tiles
def test_integers_are_exact():
    a, b = (10 * normal(70, 90)).round(), (10 * normal(90, 50, seed=1)).round()
    assert torch.equal(OPS.matrix_product(a, b), a @ b)


@needs_tiles
def test_numbers_of_all_magnitudes_keep_their_bits():
    """One number a sum: the parts of it must add up to all 24 bits."""
    numbers = normal(64, 64) * 10 ** torch.empty(64, 64).uniform_(-15, 15)
    product = OPS.matrix_product(numbers, torch.eye(64))
    assert ((product - numbers) / numbers).abs().max() <= torch.finfo(torch.float32).eps


@needs_tiles
@pytest.mark.parametrize("number", [math.inf, -math.inf, 3.4e38, 0.0])
@pytest.mark.parametrize("side", [0, 1])
def test_what_has_no_parts_is_pytorchs(number, side):
    factors = [normal(40, 60), normal(60, 50, seed=1)]
    if number == 0:
        factors[side].zero_()
    factors[side][7, 9] = number
    expected = factors[0] @ factors[1]
    product = OPS.matrix_product(*factors)
    assert torch.equal(product.isnan(), expected.isnan())
    assert torch.equal(product.nan_to_num(), expected.nan_to_num())


@needs_tiles
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
def test_numbers_of_any_bits_do_no_harm_to_others(layout, seed):
    """From the smallest subnormal on: its third part has bits where those of the number beside it lie in the tile."""
    a, b = factor(64, 96, layout, seed), factor(96, 80, layout, seed + 10)
    for each, largest in ((a, 60), (b, 40)):
        each *= torch.exp2(torch.randint(-149, largest, each.shape, generator=torch.Generator().manual_seed(seed)))
        assert each.abs().min() < 2.0**-140
    for left, right in ((a, b), (b.t(), a.t())):
        exact, sizes = left.double() @ right.double(), left.double().abs() @ right.double().abs()
        allowed = 2.0**-21 * sizes + 2.0**-126 * (left.double().abs().sum(1)[:, None] + right.double().abs().sum(0))
        assert ((OPS.matrix_product(left, right) - exact).abs() <= allowed).all()


@needs_tiles
@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_where_it_belongs(side):
    factors = [normal(40, 60), normal(60, 50, seed=1)]
    factors[side][7, 9] = math.nan
    torch.testing.assert_close(OPS.matrix_product(*factors), factors[0] @ factors[1], equal_nan=True)


@needs_tiles
def test_small_numbers_are_pytorchs():
    a, b = 1e-30 * normal(40, 60), normal(60, 50, seed=1)
    assert torch.equal(OPS.matrix_product(a, b), a @ b)


@needs_tiles
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(3, 4), torch.ones(3, 4)),
        (torch.ones(3, 4), torch.ones(4, 3, dtype=torch.float64)),
        (torch.ones(4), torch.ones(4, 3)),
        (torch.ones(3, 0), torch.ones(0, 3)),
        (torch.ones(6, 8)[::2, ::2], torch.ones(4, 3)),
    ],
)
def test_the_op_refuses(a, b):
    with pytest.raises(RuntimeError, match="expected float32 matrices"):
        OPS.matrix_product(a, b)


def in_tiles(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether a product that differs by rounding is that of the tiles."""
    product = a @ b
    if torch.equal(product, OPS.matrix_product(a, b)):
        return True
    out = torch.empty_like(product)
    assert torch.equal(product, torch.mm(a, b, out=out))  # PyTorch's own, which nothing replaces
    return False


@pytest.fixture
def large() -> tuple[torch.Tensor, torch.Tensor]:
    return normal(256, 200), normal(200, 256, seed=1)


@needs_tiles
def test_is_on_inside_only(large):
    assert not in_tiles(*large)
    with tile_products():
        assert in_tiles(*large)
        with tile_products():
            assert in_tiles(*large)
        assert in_tiles(*large)
    assert not in_tiles(*large)
    with pytest.raises(ZeroDivisionError), tile_products():
        1 / 0  # noqa: B018
    assert not in_tiles(*large)


@needs_tiles
def test_is_on_in_one_thread_only(large):
    found = []
    thread = threading.Thread(target=lambda: found.append(in_tiles(*large)))
    with tile_products():
        thread.start()
        thread.join()
        assert in_tiles(*large)
    assert found == [False]


@needs_tiles
def test_a_lower_precision_that_is_allowed_is_pytorchs(large):
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with tile_products():
            assert not in_tiles(*large)
    finally:
        matmul.fp32_precision = before


@needs_tiles
def test_leaving_without_entering_is_an_error():
    with pytest.raises(RuntimeError, match="has not entered"):
        OPS.leave_tiles()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.complex64])
def test_other_dtypes_are_pytorchs(dtype):
    a, b = (5 * normal(256, 200)).round().to(dtype), (5 * normal(200, 256, seed=1)).round().to(dtype)
    expected = a @ b
    with tile_products():
        assert torch.equal(a @ b, expected)


@pytest.mark.parametrize("shapes", [((0, 5), (5, 3)), ((3, 0), (0, 4)), ((2, 3), (3, 2)), ((512, 512), (512, 1))])
def test_small_and_empty_products_are_pytorchs(shapes):
    a, b = normal(*shapes[0]), normal(*shapes[1], seed=1)
    expected = a @ b
    with tile_products():
        assert torch.equal(a @ b, expected)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 4), "shapes cannot be multiplied"),
        (torch.ones(3, 4), torch.ones(4, 3, dtype=torch.float64), "same dtype"),
        (torch.ones(4), torch.ones(4, 3), "must be a matrix"),
    ],
)
def test_errors_are_as_outside(a, b, message):
    with pytest.raises(RuntimeError, match=message):
        torch.mm(a, b)
    with pytest.raises(RuntimeError, match=message), tile_products():
        torch.mm(a, b)


def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, w).tanh().square().sum()


def second_derivatives(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
    """A Hessian-vector product in three ways, the last with two vectors at once."""
    x, w = x.requires_grad_(), w.requires_grad_()
    slope = torch.autograd.grad(loss(x, w), (x, w), create_graph=True)
    twice = torch.autograd.grad(slope[1], (x, w), t)
    product = lambda t: jvp(grad(loss, argnums=(0, 1)), (x, w), (torch.zeros_like(x), t))[1]  # noqa: E731
    with torch.no_grad():
        several = vmap(product)(torch.stack([t, -t]))
        return [*twice, *product(t), *several]


@needs_tiles
def test_derivatives_of_every_kind():
    tensors = normal(300, 160), 0.1 * normal(200, 160, seed=1), normal(200, 160, seed=2)
    expected = second_derivatives(*(t.double() for t in tensors))
    outside = second_derivatives(*(t.clone() for t in tensors))
    with tile_products():
        inside = second_derivatives(*(t.clone() for t in tensors))
    for ours, theirs, exact in zip(inside, outside, expected, strict=True):
        assert not torch.equal(ours, theirs), "the tiles were not used"
        assert (ours - exact).norm() <= 1e-6 * exact.norm()


def test_compiled_code_goes_without(large):
    compiled = torch.compile(lambda a, b: (a @ b).sin(), backend="aot_eager", fullgraph=True)

    def inside(a, b):
        with tile_products():
            return a @ b

    torch.testing.assert_close(torch.compile(inside, backend="eager", fullgraph=True)(*large), large[0] @ large[1])
    with tile_products():
        torch.testing.assert_close(compiled(*large), (large[0] @ large[1]).sin())
