"""The GPU benchmark without a GPU: its whole path at toy sizes, and its table from made-up times."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import _error, markdown
from benchmarks.gpu_work import TOY, WORKLOADS

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    everything = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_cell_is_right_in_the_interpreter(tmp_path):
    done = run("--toy", "--dtypes", "float32", "--out", str(tmp_path), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    cells = sum(len(workload.tasks) for workload in TOY.values())
    assert [row["right"] for row in result["checks"]] == [True] * cells
    assert len(result["rows"]) == cells
    for row in result["rows"]:
        for name in ("alternet", "eager"):
            assert row["implementations"][name] == {
                "bytes": None,
                "milliseconds": [],
            }  # it ran; nothing here is a speed
    assert "no speeds" in result["device"]


def test_every_operator_with_triton_kernels_is_compared():
    operators = {path.parent.name for path in (ROOT / "kernels").glob("*/triton.py")}
    named = {"gelu" if operator == "activation" else operator for operator in operators}
    for workloads in (TOY, WORKLOADS):
        assert {re.match(r"\w+", title)[0] for title in workloads} == named


@pytest.mark.parametrize("title", WORKLOADS)
def test_what_is_checked_has_the_kernels_of_what_is_timed(title):
    """The same number of inputs of the same widths: only images, rows and tokens are fewer."""
    workload = WORKLOADS[title]
    timed, checked = workload.timed("meta"), workload.checked("meta")
    assert list(timed.functions)[:2] == list(checked.functions)[:2] == ["alternet", "eager"]
    assert [len(shape) for shape in timed.shapes] == [len(shape) for shape in checked.shapes]
    assert [shape[-1] for shape in timed.shapes] == [shape[-1] for shape in checked.shapes]


def test_a_result_that_should_be_zero_is_wrong_when_it_is_not():
    one, zero = torch.ones(2), torch.zeros(2)
    assert _error([one, None], [one.double(), zero.double()]) == 0.0
    assert _error([one, zero], [one.double(), None]) == 0.0
    assert _error([one, one], [one.double(), zero.double()]) == math.inf


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 1
    assert "torch sees no GPU (--toy runs the path without one)" in done.stderr


def test_table_shows_ratios_and_failures():
    row = {
        "cell": "1 x 2 x 3 x 4, float32, jvp(grad)",
        "implementations": {
            "alternet": {"milliseconds": [2.0, 1.0, 3.0], "bytes": 2**21},
            "eager": {"milliseconds": [8.0, 6.0, 7.0], "bytes": 2**24},
            "torch.compile": {"failed": "OutOfMemoryError"},
        },
    }
    first = "| 1 x 2 x 3 x 4, float32, jvp(grad) | 2.000 ms | 3.50x | OutOfMemoryError | 2 MiB |"
    assert markdown([row]).splitlines()[-1] == first
