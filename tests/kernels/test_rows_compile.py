"""Every Triton kernel that is not attention compiles, without a GPU, for every target, and spills nothing."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels.triton_static import ROW_WISE, TARGETS, Case, cases, compile_rows

OPERATORS = (*ROW_WISE, "feature_spectrum")
FAST = [
    *(case for name in OPERATORS for case in cases(name, ["sm_90"], ["float32"])),
    *(case for name in OPERATORS for case in cases(name, ["gfx942"], ["bfloat16"])),
]
SLOW = [case for name in OPERATORS for case in cases(name, TARGETS, ["float32"]) if case not in FAST]


@pytest.mark.parametrize(
    "case",
    [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: "-".join(filter(None, map(str, case))),
)
def test_compiles_and_spills_nothing(case: Case):
    for row in compile_rows([case]):
        assert row.spill_bytes == 0, row
        assert row.shared_bytes <= 48 * 1024, row
