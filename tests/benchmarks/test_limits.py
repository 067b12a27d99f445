"""What a work needs at least is counted from what eager PyTorch does in it."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.limits import ROWS, Row, needs, operations, products_alone, written
from benchmarks.suite import load


class Called(TorchDispatchMode):
    """Every function that is called inside."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def test_a_product_is_two_operations_an_entry_and_three_matrices():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    assert needs(lambda: a @ b) == (2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4), [4 * 8 * 4])


def test_what_is_made_on_the_way_is_neither_input_nor_result():
    a = torch.randn(100)
    assert needs(lambda: ((a + 1) * (a + 2)).sum()) == (0, 400, [4])


def test_views_of_an_input_are_the_input():
    a = torch.randn(10, 10)
    assert needs(lambda: a[0] + a[:, 1] + a.view(100)[:10]) == (0, 400, [40])


def test_products_of_transforms_count():
    a, t = torch.randn(6, 6), torch.randn(6, 6)
    flops, read, sizes = needs(lambda: torch.func.jvp(lambda x: x @ x, (a,), (t,)))
    assert flops == 3 * 2 * 6**3  # the product, and both sides of its derivative
    assert read == 2 * 36 * 4  # a and its tangent
    assert sizes == [36 * 4, 36 * 4]  # the product and its tangent


@pytest.mark.parametrize("transform", ["none", "jvp"])
def test_products_alone_are_the_work_without_the_rest(transform):
    a, t = torch.randn(6, 6), torch.randn(6, 6)

    def f(x):
        return (x.exp() @ x).sum() + (x @ x.cos()).square().sum()

    def work():
        return f(a) if transform == "none" else torch.func.jvp(f, (a,), (t,))

    alone = products_alone(work)
    with Called() as called:
        alone()
    count = {"none": 2, "jvp": 6}[transform]
    assert called.functions == count * [torch.ops.aten.mm.default]
    assert operations(alone) == operations(work) == count * 2 * 6**3


def test_results_are_of_the_sizes_asked_for():
    assert [t.nbytes for t in written([40, 0, 7])] == [40, 0, 7]


@pytest.mark.parametrize(("suite", "shape", "task"), ROWS)
def test_every_row_is_in_its_suite(suite, shape, task):
    found = [names for (s, t), names in load(suite).rows().items() if s.startswith(shape) and t == task]
    assert len(found) == 1 or "bfloat16" in task  # which not every processor has
    assert all({"alternet", "eager"} <= names.keys() for names in found)


def test_the_least_is_the_slower_of_products_and_reads_and_then_the_results():
    row = Row("", "", 1, 2, 1, 1, 0.5, 1.0, 0.75, 0.125, 0.25, 2.0, 3.0)
    assert (row.least, row.own_least) == (0.875, 1.125)


def test_attention_makes_24_products_where_eager_makes_18():
    cells = next(c for (shape, task), c in load("attention").rows().items() if task == "jvp(grad)")
    eager, own = (needs(cells[name].prepare())[0] for name in ("eager", "alternet"))
    assert eager * 24 == own * 18
