"""Every Triton kernel of window attention compiles, without a GPU, for every target, within its limits.

Windows of 4 x 4 run always, the rest of what can be launched is marked slow (``python -m pytest -m slow``).
"""

from __future__ import annotations

import importlib.util
from itertools import product

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels.triton_compile import SHARED_MEMORY, compile_launch
from alternet.kernels.window_attention.triton_static import Case, launches

MAPS = {"forward", "tangent", "backward", "backward_tangent"}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
FAST = [Case("sm_80", "float16", 4, 64, False)]
EVERY = [
    *(Case(*case) for case in product(TARGETS, ["float16"], [4, 7], [32, 64], [False])),
    *(Case(*case) for case in product(TARGETS, ["float32"], [4], [32, 64], [False])),
    *(Case(*case) for case in product(TARGETS[:3], ["tf32"], [4], [64], [False])),
    *(Case(*case) for case in product(TARGETS, ["bfloat16"], [4, 7], [64], [True])),
]

# Maps that run on attention's kernels, by target, dtype, window and head size, since no tile was found for them.
ELSEWHERE = {
    ("sm_80", "float16", 7, 32): {"backward_tangent"},
    ("sm_80", "float16", 7, 64): MAPS - {"forward"},
    ("sm_80", "bfloat16", 7, 64): MAPS - {"forward"},
    **{(target, dtype, 4, 64): {"backward_tangent"} for target in TARGETS[:3] for dtype in ("float32", "tf32")},
}
# Bytes of stack a thread; what is not here must not spill at all.
SPILLS = {("sm_90", "float16", 7, 64): {"backward_tangent": 16}, ("sm_100", "float16", 4, 64): {"forward": 8}}


@pytest.mark.parametrize(
    "case",
    [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in EVERY if case not in FAST)],
    ids=lambda case: "-".join(map(str, case)),
)
def test_compiles_within_its_limits(case: Case):
    of_case = case[:4]
    recorded = {launch.kernel.__name__.split("_", 2)[2].removesuffix("_kernel"): launch for launch in launches(case)}
    assert set(recorded) == MAPS - ELSEWHERE.get(of_case, set())
    compiled = {name: compile_launch(launch, case.target) for name, launch in recorded.items()}
    for name, result in compiled.items():
        assert result.shared_bytes <= SHARED_MEMORY[case.target] * 1024, (name, result)
        ffma = case.dtype == "float32" and case.target.startswith("sm_")
        assert (result.matrix_instructions > 0) == (not ffma), (name, result)
    assert {name: c.spill_bytes for name, c in compiled.items() if c.spill_bytes} == SPILLS.get(of_case, {})
