"""The four maps of the Triton backend of window attention against the reference in float64.

The same cases run on a GPU, where there is one, and in Triton's interpreter, which must be chosen before Triton is
imported: ``test_in_the_interpreter`` runs this file again in a process of its own.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels import available_backends, use_backend, window_attention
from alternet.kernels.window_attention import cases, reference, triton_configs
from alternet.kernels.window_attention import triton as backend
from alternet.kernels.window_attention.triton_problem import Problem

from .triton_runs import DEVICE, passes_in_interpreter, starts_interpreter

REASON = available_backends()["triton"]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}  # of the largest entry of all that a map returns

pytestmark = pytest.mark.usefixtures("watched_outputs")
runs_kernels = pytest.mark.skipif(REASON is not None, reason=f"{REASON} (test_in_the_interpreter runs it)")


@starts_interpreter
def test_in_the_interpreter():
    passes_in_interpreter(__file__)


@dataclass(frozen=True)
class Case:
    """A call of the four maps. ``tangents``, ``needs``: which of query, key, value, table (and grad) take part."""

    pixels: tuple[int, int] = (2, 5)
    window: tuple[int, int] = (2, 3)
    shift: tuple[int, int] = (0, 0)
    B: int = 1
    heads: int = 1
    D: int = 3
    DV: int = 5
    T: int = 1
    table: str = "H"  # axes of [B, H] that the table has; "-" for a shared one, "" for none
    channels_last: bool = False
    layout: str = "contiguous"
    tangents: str = "qkvtg"
    needs: str = "qkvt"

    def __str__(self) -> str:
        default = Case()
        changed = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        return ",".join(f"{name}={value}" for name, value in changed.items()).replace(" ", "") or "default"


def laid_out(x: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape, random again where ``layout`` makes entries share memory, with other strides."""
    if layout == "part of one projection":  # as key is in the middle of queries, keys and values
        return torch.stack([-x, x, -x], -3)[..., 1, :, :]
    if layout == "other axes first":
        return x.movedim(-1, 1).contiguous().movedim(1, -1)
    if layout == "columns first":
        return x.movedim(-3, 0).contiguous().movedim(0, -3)
    if layout == "broadcast":
        return x[..., :1, :1].expand(x.shape)
    assert layout == "contiguous"
    return x


def inputs(case: Case, dtype: torch.dtype) -> tuple[list[Tensor | None], Tensor, list[Tensor | None]]:
    """query, key, value, table; grad; and the tangents of all five."""
    table = None
    if case.table:
        lead = [size if axis in case.table else 1 for axis, size in (("B", case.B), ("H", case.heads))]
        table = (*lead, *(2 * n - 1 for n in case.window))
    x = cases.inputs(case.B, case.heads, case.D, case.DV, case.pixels, table, channels_last=case.channels_last)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return laid_out(torch.randn(*shape, generator=generator).to(DEVICE, dtype), case.layout)

    given = [None if t is None else laid_out(t.to(DEVICE, dtype), case.layout) for t in x]
    grad = random(*x[2].shape)
    tangents = [
        random(case.T, *t.shape) if t is not None and name in case.tangents else None
        for name, t in zip("qkvtg", (*x, grad), strict=True)
    ]
    return given, grad, tangents


def run(maps, case: Case, x, grad, tangents) -> dict[str, dict[str, Tensor]]:
    """What each map returns, by name; what is not needed is checked to be None and left out."""
    parameters = cases.parameters(case.window, 0.4, case.shift, case.channels_last)
    needs = tuple(name in case.needs and t is not None for name, t in zip("qkvt", x, strict=True))
    (out,) = maps.forward(*x, **parameters)
    results = {"forward": {"out": out}}
    t_out = None
    if any(t is not None for t in tangents[:4]):
        (t_out,) = maps.tangent(*x, out, *tangents[:4], **parameters)
        results["tangent"] = {"t_out": t_out}
    d = maps.backward(*x, out, grad, needs=needs, **parameters)
    t_d = maps.backward_tangent(*x, out, grad, *tangents[:4], t_out, tangents[4], needs=needs, **parameters)
    for name, found in (("backward", d), ("backward_tangent", t_d)):
        assert [t is not None for t in found] == list(needs), name
        results[name] = {which: t for which, t in zip("qkvt", found, strict=True) if t is not None}
    return results


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    x, grad, tangents = inputs(case, dtype)
    mine = run(backend, case, x, grad, tangents)
    exact = run(reference, case, *(double(t) for t in (x, grad, tangents)))
    for name, results in mine.items():
        scale = max(1.0, *(t.abs().amax().item() for t in exact[name].values() if t.numel()), 0.0)
        for which, result in results.items():
            expected = exact[name][which]
            assert (result.shape, result.dtype) == (expected.shape, dtype), (name, which)
            assert result.is_contiguous(), (name, which)
            off = (result.double() - expected).abs().amax().item() if result.numel() else 0.0
            assert off <= TOLERANCE[dtype] * scale, f"{name} {which}: off by {off:.1e}, largest entry {scale:.1e}"


def double(x):
    return [double(t) for t in x] if isinstance(x, list) else None if x is None else x.double()


def each(*selected: Case):
    return pytest.mark.parametrize("case", selected, ids=str)


@runs_kernels
@each(
    Case(pixels=(8, 4), window=(4, 4), heads=2, T=2),
    Case(pixels=(4, 7), window=(4, 3), B=2, heads=2, table="-", channels_last=True),
    Case(pixels=(7, 9), window=(7, 7), shift=(0, 4), D=20, DV=33),
    Case(pixels=(3, 4), shift=(5, 7), B=2, table="BH", channels_last=True, T=2),
    Case(pixels=(8, 8), window=(8, 8), shift=(4, 0), table=""),
)
def test_windows(case: Case):
    check(case)


@runs_kernels
@each(
    Case(pixels=(4, 7), window=(4, 3), B=2, T=2), Case(pixels=(7, 9), window=(7, 7), shift=(0, 4), channels_last=True)
)
def test_half_precision(case: Case):
    check(case, torch.float16)


@runs_kernels
@each(
    Case(pixels=(2, 3), window=(4, 4), shift=(1, 0)),  # larger than the map
    Case(pixels=(1, 1), window=(1, 1)),
    Case(pixels=(3, 1), window=(1, 7), shift=(0, 6)),
    Case(pixels=(6, 6), window=(2, 2), B=2, heads=2, table="B", T=2),  # one of a tile's windows is none
    Case(B=0),
    Case(B=0, table=""),
    Case(B=0, heads=2, table="BH", T=2),
)
def test_sizes(case: Case):
    check(case)


@runs_kernels
@each(*(Case(tangents=names) for names in ("q", "v", "t", "kg")))
def test_missing_tangents(case: Case):
    check(case)


@runs_kernels
@each(*(Case(needs=names) for names in ("", "v", "kt")))
def test_needs(case: Case):
    check(case)


@runs_kernels
@pytest.mark.parametrize("layout", ["part of one projection", "other axes first"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_strides(layout: str, channels_last: bool):
    check(Case(B=2, heads=2, pixels=(2, 3), layout=layout, channels_last=channels_last))


@runs_kernels
@each(Case(B=2, heads=2, pixels=(3, 1), layout="columns first", channels_last=True))
def test_a_single_column_of_any_stride(case: Case):
    check(case)


@runs_kernels
@pytest.mark.usefixtures("no_tiles")
@each(
    Case(pixels=(2, 3), shift=(0, 1), table="-"),
    Case(channels_last=True, table="", tangents="vg"),
    Case(B=0, table="BH", T=2),
)
def test_windows_without_a_tile_run_on_attention(case: Case):
    check(case)


@pytest.fixture
def no_tiles(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_configs, "config", lambda *_: None)


@runs_kernels
def test_queries_whose_every_key_the_table_hides():
    """Zeros, as attention has it; relative position (0, 0) is the first entry that is not hidden from others."""
    case = Case(pixels=(2, 3), window=(2, 3), heads=1, tangents="qkvg", needs="qkv")
    x, grad, tangents = inputs(case, torch.float32)
    x[3] = torch.full_like(x[3], -torch.inf)
    x[3][..., -1, -1] = 0.0  # the first pixel sees the last, nobody else sees any
    mine = run(backend, case, x, grad, tangents)
    exact = run(reference, case, *(double(t) for t in (x, grad, tangents)))
    for name, results in mine.items():
        for which, result in results.items():
            torch.testing.assert_close(result.double(), exact[name][which], rtol=0, atol=1e-5)


@runs_kernels
def test_float64_is_refused():
    x, _, _ = inputs(Case(), torch.float64)
    with pytest.raises(TypeError, match=r"query: dtype torch\.float64, the triton backend has float16, bfloat16"):
        backend.forward(*x, **cases.parameters((2, 3), 0.4))


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_beyond_32_bit_offsets_are_refused(channels_last: bool):
    """Instead of read and written elsewhere. The tensors have all their numbers in one place."""
    one, heads, features, side = torch.zeros(1), 2, 32, 1 << 13
    refused = (1, side, side, heads, features) if channels_last else (1, heads, features, side, side)
    allowed = (1, side, side, 1, 16) if channels_last else (1, 4, 16, side, side)
    parameters = {"window_size": (4, 4), "shift": (0, 0), "scale": 1.0, "channels_last": channels_last}
    with pytest.raises(ValueError, match="fewer than 2\\^31"):
        Problem.of(one.expand(refused), one.expand(refused), **parameters)
    Problem.of(one.expand(allowed), one.expand(allowed), **parameters)


@runs_kernels
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_hessian_vector_product_of_the_public_function(memory_format: torch.memory_format):
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 6, 3, 4), (1, 6, 3, 4), (1, 4, 3, 4), (2, 3, 5)
    x = tuple(torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    x = *(t.contiguous(memory_format=memory_format) for t in x[:3]), x[3]

    def product(*x: Tensor) -> tuple[Tensor, ...]:
        def loss(*x: Tensor) -> Tensor:
            options = {"window_size": (2, 3), "shift": (1, 1), "num_heads": 2}
            return window_attention(*x[:3], table=x[3], **options).pow(3).sum()

        return torch.func.jvp(torch.func.grad(loss, argnums=(0, 1, 2, 3)), x, tuple(t.sin() for t in x))[1]

    with use_backend("reference"):
        exact = product(*(t.double() for t in x))
    with use_backend("triton"):
        mine = product(*x)
    for result, expected in zip(mine, exact, strict=True):
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-5 * expected.abs().amax().item())
