"""Every Triton kernel compiles, without a GPU, for every target; nothing spills, and all fits in shared memory.

The common head sizes run always, the rest of what can be launched is marked slow (``python -m pytest -m slow``).
"""

from __future__ import annotations

import functools
import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels import triton_static
from alternet.kernels.triton_compile import SHARED_MEMORY
from alternet.kernels.triton_static import Case, Row

MOST = ("bias, causal",)  # what holds most in registers
POSITIONS = ("table, neighbours",)


def cases(targets=triton_static.TARGETS, **selected) -> list[Case]:
    return triton_static.cases("attention", targets, **selected)


FAST = [
    *cases(targets=("sm_86", "sm_90", "gfx942"), dtypes=("bfloat16",), sizes=(64,), variants=MOST),
    *cases(targets=("sm_80",), dtypes=("float32",), sizes=(64,), variants=MOST),
    *cases(targets=("sm_80",), dtypes=("bfloat16",), sizes=(64,), variants=POSITIONS),
]
EVERY = [
    *cases(dtypes=("bfloat16", "float32", "tf32"), variants=MOST),
    *cases(dtypes=("float16",), sizes=(64,), variants=("plain", *MOST)),
    *cases(dtypes=("bfloat16", "float32"), sizes=(64,), variants=("plain",)),
    *cases(dtypes=("bfloat16", "float32", "tf32"), variants=POSITIONS),
    *cases(dtypes=("float16",), sizes=(64,), variants=POSITIONS),
]
SLOW = [case for case in EVERY if case not in FAST]

_rows = functools.cache(lambda case: list(triton_static.compile_rows([case])))
every_case = pytest.mark.parametrize(
    "case",
    [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: "-".join(map(str, case[1:])),
)


@every_case
def test_compiles_within_its_limits(case: Case):
    rows = _rows(case)
    kernels = 8 if case.variant == "plain" else 10
    assert len({row.kernel for row in rows}) == kernels
    assert len(set(map(_name, rows))) == len(rows)
    for row in rows:
        assert row.shared_bytes <= SHARED_MEMORY[case.target] * 1024, row
        multiplies = "delta" not in row.kernel
        # float32 products without TF32 have matrix instructions on AMD only
        assert (row.matrix_instructions > 0) == (multiplies and not _is_ffma(case)), row
    assert {_name(row): row.spill_bytes for row in rows if row.spill_bytes} == {}


def _name(row: Row) -> str:
    return row.kernel.removeprefix("attention_") + (f" x{row.tangents}" if row.tangents > 1 else "")


def _is_ffma(case: Case) -> bool:
    return case.dtype == "float32" and case.target.startswith("sm_")
