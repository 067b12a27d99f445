"""Every Triton kernel compiles, without a GPU, for every target; what its launch configuration costs is recorded.

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
    *cases(dtypes=("bfloat16",), sizes=(64,), variants=POSITIONS),
]
SLOW = [case for case in EVERY if case not in FAST]

# Bytes of stack a thread has at most, by target, dtype, head size, flags and kernel; what is not here must not spill at
# all: TF32 spills nothing, 16 bits a pair of tangents beside places, and two registers twice. Second-order float32
# kernels spill a little where products run on FFMA (whole rows of their operands are registers), and heads of 256 more,
# since nothing is smaller than the tile: their resident operands and results alone fill the registers of a program.
_SPILLS = {
    ("sm_80", "bfloat16", 64, "plain"): {"backward_tangent_query x2": 8},
    ("sm_80", "float32", 128, "bias, causal"): {"backward_tangent_query": 8},
    ("sm_80", "float32", 256, "bias, causal"): {
        "tangent": 336,
        "backward_tangent_query": 400,
        "backward_tangent_key_value": 552,
        "backward_tangent_bias": 3840,
    },
    ("sm_86", "float32", 64, "bias, causal"): {"backward_tangent_key_value": 8},
    ("sm_86", "float32", 128, "bias, causal"): {"backward_tangent_query": 40, "backward_tangent_key_value": 8},
    ("sm_90", "bfloat16", 64, "table, neighbours"): {"backward_tangent_query x2": 56},
    ("sm_90", "float32", 16, "bias, causal"): {"backward_tangent_query": 8},
    ("sm_90", "float32", 32, "bias, causal"): {"backward_tangent_bias": 16},
    ("sm_90", "float32", 64, "bias, causal"): {"backward_tangent_key_value": 24},
    ("sm_90", "float32", 64, "plain"): {"backward_tangent_key_value": 8},
    ("sm_90", "float32", 128, "bias, causal"): {"backward_tangent_query": 32, "backward_tangent_key_value": 16},
    ("sm_90", "float32", 256, "bias, causal"): {
        "tangent": 368,
        "backward_tangent_query": 480,
        "backward_tangent_key_value": 560,
        "backward_tangent_bias": 392,
    },
    ("sm_100", "bfloat16", 64, "plain"): {"backward_tangent_query": 8},
    ("sm_100", "float32", 16, "bias, causal"): {"backward_tangent_bias": 8},
    ("sm_100", "float32", 64, "bias, causal"): {"backward_tangent_key_value": 24},
    ("sm_100", "float32", 128, "bias, causal"): {"backward_tangent_query": 48, "backward_tangent_key_value": 16},
    ("sm_100", "float32", 256, "bias, causal"): {
        "tangent": 360,
        "backward_tangent_query": 440,
        "backward_tangent_key_value": 528,
        "backward_tangent_bias": 344,
    },
    ("gfx942", "float32", 256, "bias, causal"): {"backward_tangent_query": 112, "backward_tangent_key_value": 780},
}
SPILLS: dict[Case, dict[str, int]] = {Case("attention", *case): spilled for case, spilled in _SPILLS.items()}

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
    spilled = {_name(row): row.spill_bytes for row in rows if row.spill_bytes}
    allowed = SPILLS.get(case, {})
    assert all(bytes_ <= allowed.get(kernel, 0) for kernel, bytes_ in spilled.items()), spilled


def _name(row: Row) -> str:
    return row.kernel.removeprefix("attention_") + (f" x{row.tangents}" if row.tangents > 1 else "")


def _is_ffma(case: Case) -> bool:
    return case.dtype == "float32" and case.target.startswith("sm_")
