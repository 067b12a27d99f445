"""Every Triton kernel of the row-wise operators compiles, without a GPU, for every target, and spills nothing."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels.triton_compile import compile_launch
from alternet.kernels.triton_launch import record

OPERATORS = ["layer_norm", "activation", "cross_entropy", "batch_norm"]
FAST = [("sm_90", torch.float32), ("gfx942", torch.bfloat16)]
SLOW = [(target, torch.float32) for target in ("sm_80", "sm_100", "gfx942")]


def launches(operator: str, target: str, dtype: torch.dtype) -> list:
    """What the four maps launch on ``target``, each kernel once: all inputs, two tangents, every result."""
    folder = f"alternet.kernels.{operator}"
    maps, reference, cases = (importlib.import_module(f"{folder}.{name}") for name in ("triton", "reference", "cases"))
    parameters = next(iter(cases.CASES.values()))[1]
    x = [None if t is None else t.to("meta") for t in cases.inputs(1, 4096, 768, dtype=dtype)]
    constants = cases.operator.signature.constants
    needs = tuple(t is not None and n not in constants for n, t in zip(cases.operator.signature.inputs, x, strict=True))

    def tangents(tensors):
        return [None if t is None else t.new_empty((2, *t.shape)) for t in tensors]

    yr = reference.forward(*x, **parameters)
    t_x = [t if need else None for need, t in zip(needs, tangents(x), strict=True)]
    with record(target) as recorded:
        maps.forward(*x, **parameters)
        maps.tangent(*x, *yr, *t_x, **parameters)
        maps.backward(*x, *yr, yr[0], **parameters, needs=needs)
        maps.backward_tangent(*x, *yr, yr[0], *t_x, *tangents(yr), *tangents(yr[:1]), **parameters, needs=needs)
    return list({launch.kernel.__name__: launch for launch in recorded}.values())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("target", "dtype"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_compiles_and_spills_nothing(operator, target, dtype):
    for launch in launches(operator, target, dtype):
        compiled = compile_launch(launch, target)
        assert compiled.spill_bytes == 0, (launch.kernel.__name__, launch.config, compiled)
        assert compiled.shared_bytes <= 48 * 1024
