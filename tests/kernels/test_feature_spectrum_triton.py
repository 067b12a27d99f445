"""The Triton kernel against the reference in float64: on a GPU, where there is one, and in Triton's interpreter.

The interpreter must be chosen before Triton is imported: ``test_in_the_interpreter`` runs this file again in a process
of its own. Compiling for GPUs needs none.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels import available_backends
from alternet.kernels.feature_spectrum import reference
from alternet.kernels.feature_spectrum import triton as backend
from alternet.kernels.triton_launch import record

from .triton_runs import DEVICE, INTERPRETING, passes_in_interpreter, starts_interpreter

REASON = available_backends()["triton"]

runs_kernels = pytest.mark.skipif(REASON is not None, reason=f"{REASON} (test_in_the_interpreter runs it)")
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sparse": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "class token": lambda x: torch.cat([x.flatten(2)[..., :1], x.flatten(2)], 2).mT.contiguous()[:, 1:].mT.view_as(x),
}


@starts_interpreter
def test_in_the_interpreter():
    passes_in_interpreter(__file__)


def check(x, layout="contiguous", tolerance=2e-5):
    log_amplitude, variance = backend.forward(LAYOUTS[layout](x.to(DEVICE)), per_image=True)
    expected = reference.forward(x.double(), per_image=True)
    assert log_amplitude.dtype == variance.dtype == torch.float64
    torch.testing.assert_close(log_amplitude.cpu(), expected[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(variance.cpu(), expected[1], rtol=tolerance, atol=0, equal_nan=True)


def maps(*shape, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)


@runs_kernels
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts_and_dtypes(layout, dtype):
    check(maps(2, 37, 6, 6, dtype=dtype), layout)


@runs_kernels
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (3, 8), (8, 3), (7, 7), (14, 14), (17, 33), (40, 20)])
def test_sizes(size):
    check(maps(2, 3, *size))
    check(maps(2, 3, *size), "channels_last")


@runs_kernels
def test_a_large_mean_hides_neither_the_variance_nor_the_high_frequencies():
    check(maps(1, 3, 16, 16) + 1000, tolerance=2e-3)


@runs_kernels
def test_what_is_not_finite_stays_in_its_image():
    x = maps(3, 2, 5, 5)
    x[1, 0, 2, 3] = torch.nan
    log_amplitude, variance = backend.forward(x.to(DEVICE), per_image=True)
    for values in (log_amplitude[:, 0], variance):
        assert values.isfinite().tolist() == [True, False, True]


@pytest.mark.skipif(INTERPRETING, reason="the interpreter does not compile")
@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("sm_80", torch.float32),
        ("sm_90", torch.float32),
        ("sm_90", torch.bfloat16),
        ("sm_100", torch.float32),
        ("gfx942", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["maps", "channels_last"])
def test_it_compiles_and_spills_nothing(target, dtype, memory_format):
    from alternet.kernels.triton_compile import compile_launch

    x = torch.empty(4, 64, 56, 56, dtype=dtype, device="meta", memory_format=memory_format)
    with record(target) as recorded:
        backend.forward(x, per_image=False)
    (launch,) = recorded
    compiled = compile_launch(launch, target)
    assert compiled.spill_bytes == 0, (launch.config, compiled)
    assert compiled.registers <= 128
    assert compiled.shared_bytes <= 48 * 1024
