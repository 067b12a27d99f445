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
from alternet.kernels.triton_static import Case

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
MOST = ("bias, causal",)  # what holds most in registers
POSITIONS = ("table, neighbours",)


def cases(targets=TARGETS, **selected) -> list[Case]:
    return triton_static.cases("attention", targets, **selected)


FAST = [
    *cases(dtypes=("bfloat16",), sizes=(32, 64, 128), variants=MOST),
    *cases(dtypes=("float32",), sizes=(64,), variants=MOST),
    *cases(targets=("sm_80",), dtypes=("bfloat16",), sizes=(64,), variants=POSITIONS),
]
EVERY = [
    *cases(dtypes=("bfloat16", "float32", "tf32"), variants=MOST),
    *cases(dtypes=("float16",), sizes=(64,), variants=("plain", *MOST)),
    *cases(dtypes=("bfloat16", "float32"), sizes=(64,), variants=("plain",)),
    *cases(dtypes=("bfloat16",), sizes=(64,), variants=POSITIONS),
]
SLOW = [case for case in EVERY if case not in FAST]

# Bytes of stack a thread, by target, dtype, head size, flags and kernel; what is not here must not spill at all.
# Heads of at most 128 in 16 bits spill nothing, or a register or two, but where a table's gradient is gathered.
# Second-order float32 kernels spill a little where products run on FFMA, and heads of 256 where nothing is smaller than
# the tile.
SPILLS: dict[Case, dict[str, int]] = {
    Case("attention", "sm_80", "bfloat16", 64, "table, neighbours"): {
        "backward_query": 8,
        "backward_tangent_query": 16,
    },
    Case("attention", "sm_80", "bfloat16", 256, "bias, causal"): {"backward_tangent_key_value": 168},
    Case("attention", "sm_80", "float16", 64, "bias, causal"): {"backward_tangent_query": 8},
    Case("attention", "sm_80", "float32", 128, "bias, causal"): {"backward_tangent_query": 8},
    Case("attention", "sm_80", "float32", 256, "bias, causal"): {
        "tangent": 336,
        "backward_tangent_query": 360,
        "backward_tangent_key_value": 320,
        "backward_tangent_bias": 3768,
    },
    Case("attention", "sm_80", "tf32", 32, "bias, causal"): {"backward_tangent_key_value": 16},
    Case("attention", "sm_80", "tf32", 64, "bias, causal"): {"backward_tangent_bias": 8},
    Case("attention", "sm_80", "tf32", 128, "bias, causal"): {
        "backward_tangent_query": 8,
        "backward_tangent_bias": 112,
    },
    Case("attention", "sm_90", "bfloat16", 64, "table, neighbours"): {"backward_tangent_table": 48},
    Case("attention", "sm_90", "bfloat16", 256, "bias, causal"): {
        "backward_tangent_key_value": 128,
        "backward_tangent_bias": 16,
    },
    Case("attention", "sm_90", "float32", 64, "bias, causal"): {
        "backward_tangent_query": 8,
        "backward_tangent_key_value": 24,
        "backward_tangent_bias": 8,
    },
    Case("attention", "sm_90", "float32", 64, "plain"): {"backward_tangent_key_value": 8},
    Case("attention", "sm_90", "float32", 128, "bias, causal"): {
        "backward_tangent_query": 16,
        "backward_tangent_key_value": 16,
    },
    Case("attention", "sm_90", "float32", 256, "bias, causal"): {
        "forward": 16,
        "tangent": 368,
        "backward_tangent_query": 416,
        "backward_tangent_key_value": 352,
        "backward_tangent_bias": 384,
    },
    Case("attention", "sm_90", "tf32", 128, "bias, causal"): {"backward_bias": 32, "backward_tangent_bias": 80},
    Case("attention", "sm_100", "bfloat16", 64, "table, neighbours"): {"backward_tangent_table": 56},
    Case("attention", "sm_100", "bfloat16", 256, "bias, causal"): {"backward_tangent_key_value": 136},
    Case("attention", "sm_100", "float32", 64, "bias, causal"): {"backward_tangent_key_value": 24},
    Case("attention", "sm_100", "float32", 128, "bias, causal"): {
        "backward_tangent_query": 32,
        "backward_tangent_key_value": 16,
    },
    Case("attention", "sm_100", "float32", 256, "bias, causal"): {
        "tangent": 360,
        "backward_tangent_query": 416,
        "backward_tangent_key_value": 352,
        "backward_tangent_bias": 296,
    },
    Case("attention", "sm_100", "tf32", 16, "bias, causal"): {"tangent": 8},
    Case("attention", "sm_100", "tf32", 32, "bias, causal"): {"backward_tangent_bias": 16},
    Case("attention", "sm_100", "tf32", 128, "bias, causal"): {"backward_query": 8, "backward_tangent_bias": 40},
    Case("attention", "gfx942", "float32", 256, "bias, causal"): {
        "backward_tangent_query": 112,
        "backward_tangent_key_value": 780,
    },
}

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
    assert len({row.kernel for row in rows}) == len(rows) == kernels
    for row in rows:
        assert row.shared_bytes <= SHARED_MEMORY[case.target] * 1024, row
        multiplies = "delta" not in row.kernel
        # float32 products without TF32 have matrix instructions on AMD only
        assert (row.matrix_instructions > 0) == (multiplies and not _is_ffma(case)), row
    spilled = {row.kernel.removeprefix("attention_"): row.spill_bytes for row in rows if row.spill_bytes}
    assert spilled == SPILLS.get(case, {})


def _is_ffma(case: Case) -> bool:
    return case.dtype == "float32" and case.target.startswith("sm_")
