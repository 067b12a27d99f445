"""The same comparisons under pytest-benchmark: ``pytest benchmarks --benchmark-only`` (histories, JSON, histograms)."""

from __future__ import annotations

import pytest
import torch

from .suite import SUITES, load

CELLS = [cell for name in SUITES for cell in load(name).cells()]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.shape}-{cell.task}-{cell.implementation}")
def test_cell(benchmark, cell):
    torch.set_num_threads(2)
    benchmark.group = f"{cell.shape}, {cell.task}"
    benchmark.pedantic(cell.prepare(), rounds=3, warmup_rounds=1)
