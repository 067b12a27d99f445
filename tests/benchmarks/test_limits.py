"""What a work needs at least is counted from what eager PyTorch does in it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.limits import ROWS, Row, needs, written
from benchmarks.suite import load


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


def test_results_are_of_the_sizes_asked_for():
    assert [t.nbytes for t in written([40, 0, 7])] == [40, 0, 7]


@pytest.mark.parametrize(("suite", "shape", "task"), ROWS)
def test_every_row_is_in_its_suite(suite, shape, task):
    found = [names for (s, t), names in load(suite).rows().items() if s.startswith(shape) and t == task]
    assert len(found) == 1 or "bfloat16" in task  # which not every processor has
    assert all({"alternet", "eager"} <= names.keys() for names in found)


def test_the_least_is_the_slower_of_products_and_reads_and_then_the_results():
    row = Row("", "", 1, 2, 1, 1, 0.5, 1.0, 0.75, 0.125, 2.0, 3.0)
    assert (row.least, row.own_least) == (0.875, 1.125)


def test_attention_makes_24_products_where_eager_makes_18():
    cells = next(c for (shape, task), c in load("attention").rows().items() if task == "jvp(grad)")
    eager, own = (needs(cells[name].prepare())[0] for name in ("eager", "alternet"))
    assert eager * 24 == own * 18
