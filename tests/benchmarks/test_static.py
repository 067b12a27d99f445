"""The bounds of compiled kernels, by hand, and the command that prints them."""

from __future__ import annotations

import importlib.util
import json

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels.triton_static import Row, Step
from benchmarks import static
from benchmarks.bounds import CHIPS, bound

FORWARD = Row(
    "attention_forward", "sm_90", "float16", 16, "plain",
    block_m=128, block_n=64, num_warps=4, num_stages=3, tangents=1, registers=128, spill_bytes=0,
    shared_bytes=64 * 1024, matrix_instructions=8, special_instructions=64, programs=64, tensor_bytes=64000,
)  # fmt: skip


def test_exponentials_bound_a_forward_of_narrow_heads():
    found = bound(FORWARD, Step(2, 2, over_keys=True))
    assert found.operations == 2 * 2 * 128 * 64 * 16
    assert found.bytes_moved == 2 * 2 * 64 * 16
    assert found.resident_warps == 12  # three programs share 227 KiB
    assert found.limit == "exponentials"  # 64 operations a score, one exponential of 16 a clock and unit
    assert found.tflops == pytest.approx(64 * 16 * 1.83e9 * 132 / 1e12, abs=0.1)


def test_what_tangents_share_counts_once():
    step = Step(2, 2, True, 6, 2)
    one, two = (bound(FORWARD._replace(tangents=n), step) for n in (1, 2))
    assert one.operations is not None
    assert two.operations == one.operations * 7 // 8
    assert two.bytes_moved == one.bytes_moved * 3 // 4


def test_without_a_loop_memory_bounds():
    found = bound(FORWARD._replace(target="sm_80"), None)
    assert (found.limit, found.bytes_moved, found.operations, found.tflops) == ("memory", 1000, None, None)
    assert found.microseconds == pytest.approx(64000 / CHIPS["sm_80"].gigabytes_per_second / 1e3, abs=0.05)


def test_the_command_prints_every_kernel(capsys):
    selection = ["--operator", "feature_spectrum", "--target", "sm_90", "--dtype", "float32", "--processes", "1"]
    assert static.main(selection) == 0
    titles, *rows = capsys.readouterr().out.splitlines()
    assert titles.split()[:3] == ["kernel", "target", "dtype"]
    assert [row.split()[:5] for row in rows] == [
        ["feature_spectrum", "sm_90", "float32", "56", layout] for layout in ("contiguous", "channels_last")
    ]
    assert static.main([*selection, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row.keys() == set(Row._fields) | set(static.COLUMNS.values())
    assert row["limit"] == "memory"
    assert row["registers"] > 0
