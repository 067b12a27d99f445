"""Every Triton kernel of window attention compiles, without a GPU, for every target, within its limits.

Windows of 4 x 4 run always, the rest of what can be launched is marked slow (``python -m pytest -m slow``).
"""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels.triton_compile import SHARED_MEMORY
from alternet.kernels.triton_static import TARGETS, Case, cases, compile_rows
from alternet.kernels.window_attention.triton_static import VARIANTS

MAPS = {"forward", "tangent", "backward", "backward_tangent"}
FAST = cases("window_attention", ["sm_80"], ["float16"], [64], ["4 x 4"])
EVERY = [
    *cases("window_attention", dtypes=["float16"], variants=["4 x 4", "7 x 7"]),
    *cases("window_attention", dtypes=["float32"], variants=["4 x 4"]),
    *cases("window_attention", dtypes=["tf32"], sizes=[64], variants=["4 x 4"]),
    *cases("window_attention", dtypes=["bfloat16"], sizes=[64], variants=VARIANTS[2:]),
]

# Maps that run on attention's kernels, by target, dtype, window and head size, since no tile was found for them.
ELSEWHERE = {
    **{(target, "float16", 7, 32): {"backward_tangent"} for target in ("sm_80", "sm_86")},
    **{(t, dtype, 7, 64): MAPS - {"forward"} for t in ("sm_80", "sm_86") for dtype in ("float16", "bfloat16")},
    **{
        (target, dtype, 4, 64): {"backward_tangent"}
        for target in TARGETS
        for dtype in ("float32", "tf32")
        if target.startswith("sm_")
    },
}
# Bytes of stack a thread has at most; what is not here must not spill at all.
SPILLS = {("sm_90", "float16", 7, 64): {"backward_tangent": 16}}


@pytest.mark.parametrize(
    "case",
    [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in EVERY if case not in FAST)],
    ids=lambda case: "-".join(map(str, case)),
)
def test_compiles_within_its_limits(case: Case):
    of_case = (case.target, case.dtype, int(case.variant[0]), case.size)
    rows = {row.kernel.removeprefix("window_attention_"): row for row in compile_rows([case])}
    assert set(rows) == MAPS - ELSEWHERE.get(of_case, set())
    allowed = SPILLS.get(of_case, {})
    for name, row in rows.items():
        assert row.shared_bytes <= SHARED_MEMORY[case.target] * 1024, row
        ffma = case.dtype == "float32" and case.target.startswith("sm_")
        assert (row.matrix_instructions > 0) == (not ffma), row
        assert row.spill_bytes <= allowed.get(name, 0), row
