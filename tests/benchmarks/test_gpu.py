"""The GPU benchmark without a GPU: its whole path at toy sizes, and its table from made-up times."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert [row["right"] for row in result["checks"]] == [True] * 4
    assert len(result["rows"]) == 4
    for row in result["rows"]:
        for name in ("alternet", "eager"):
            assert row["implementations"][name] == {
                "bytes": None,
                "milliseconds": [],
            }  # it ran; nothing here is a speed
    assert "no speeds" in result["device"]


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 1
    assert "torch sees no GPU (--toy runs the path without one)" in done.stderr


def test_table_shows_ratios_and_failures():
    pytest.importorskip("triton")
    from benchmarks.gpu import markdown

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
