"""The same comparisons under pytest-benchmark: ``pytest benchmarks --benchmark-only`` (histories, JSON, histograms)."""

from __future__ import annotations

import pytest
import torch

from .pointwise import cells


@pytest.mark.parametrize("cell", cells(), ids=lambda c: f"{c.shape}-{c.task}-{c.implementation}")
def test_pointwise(benchmark, cell):
    torch.set_num_threads(2)
    benchmark.group = f"{cell.shape}, {cell.task}"
    benchmark.pedantic(cell.prepare(), rounds=3, warmup_rounds=1)
