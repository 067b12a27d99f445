"""The four maps of the Triton backend against float64 eager attention, differentiated by PyTorch itself.

The same cases run on a GPU, where there is one, and in Triton's interpreter, which must be chosen before Triton is
imported: ``test_in_the_interpreter`` runs this file again in a process of its own. The interpreter gets 16 x 16 tiles,
so that small sizes have several, ragged ones; the GPU gets the tiles that it would be given.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from alternet.kernels import triton_launch, use_backend
from alternet.kernels.attention import attention as alternet_attention
from alternet.kernels.attention import triton as backend
from alternet.kernels.attention import triton_configs, triton_problem
from alternet.kernels.attention.cases import neighbours, relative_position_bias

from .triton_runs import DEVICE, INTERPRETING, passes_in_interpreter, starts_interpreter

REASON = backend.unavailable_reason()

pytestmark = pytest.mark.usefixtures("watched_outputs")
runs_kernels = pytest.mark.skipif(REASON is not None, reason=f"{REASON} (test_in_the_interpreter runs it)")
on_gpu = pytest.mark.skipif(REASON is not None or INTERPRETING, reason=REASON or "too large for the interpreter")
dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(INTERPRETING, reason="Triton's interpreter multiplies bfloat16 tiles wrongly"),
        ),
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)


@starts_interpreter
def test_in_the_interpreter():
    passes_in_interpreter(__file__)


@dataclass(frozen=True)
class Case:
    """A call of the four maps. ``tangents``, ``needs``: which of query, key, value, bias (and grad) take part."""

    B: int = 1
    H: int = 1
    N: int = 17
    M: int = 19
    D: int = 20
    DV: int = 16
    T: int = 1
    bias: str = ""  # axes of [B, H, N, M] that the bias has; "-" for a bias of one number, "" for none
    masked: bool = False
    is_causal: bool = False
    layout: str = "contiguous"
    tangents: str = "qkvbtg"
    needs: str = "qkvbt"
    grid: tuple[int, ...] = ()  # then N and M are its tokens
    table: str = ""  # likewise of [B, H]
    kernel_size: tuple[int, ...] = ()
    key_heads: int = 0  # fewer than H, or 0

    def __str__(self) -> str:
        default = Case()
        changed = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        return ",".join(f"{name}={value}" for name, value in changed.items()) or "default"


def eager(query, key, value, bias, table, *, scale, is_causal, grid, kernel_size):
    """Attention and its log-sum-exp as anybody would write them; a row that sees no key gives 0 and +inf."""
    if key.shape[1] != query.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = scale * query @ key.mT
    if bias is not None:
        scores = scores + bias
    if table is not None:
        scores = scores + relative_position_bias(table, grid)
    if kernel_size:
        scores = scores.masked_fill(~neighbours(grid, kernel_size).to(scores.device), -torch.inf)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    dead = (scores == -torch.inf).all(-1, keepdim=True)
    scores = scores.masked_fill(dead, 0.0)
    out = (torch.softmax(scores, -1) @ value).masked_fill(dead, 0.0)
    return out, torch.logsumexp(scores, -1).masked_fill(dead[..., 0], torch.inf)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape, random again where ``layout`` makes entries share memory, with other strides."""
    if layout == "tokens first":  # [..., B, N, H, D], as a projection gives it
        return tensor.transpose(-3, -2).contiguous().transpose(-3, -2)
    if layout == "features first":
        return tensor.mT.contiguous().mT
    if layout == "broadcast":  # over heads
        return tensor[..., :1, :, :].expand(tensor.shape)
    if layout == "sliced":
        return tensor.repeat_interleave(2, -1).repeat_interleave(3, -2)[..., ::3, ::2]
    assert layout == "contiguous"
    return tensor


def inputs(case: Case, dtype: torch.dtype) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Random primals and tangents by the first letter of their names, ``g`` for grad."""
    generator = torch.Generator().manual_seed(0)
    B, H, N, M, D, DV = case.B, case.H, case.N, case.M, case.D, case.DV
    bias = [size if axis in case.bias else 1 for axis, size in zip("BHNM", (B, H, N, M), strict=True)]
    K = case.key_heads or H
    shapes = {"q": (B, H, N, D), "k": (B, K, M, D), "v": (B, K, M, DV), "b": bias, "g": (B, H, N, DV)}
    if not case.bias:
        del shapes["b"]
    if case.table:
        lead = [size if axis in case.table else 1 for axis, size in zip("BH", (B, H), strict=True)]
        shapes["t"] = (*lead, *(2 * n - 1 for n in case.grid))

    def random(*shape: int) -> Tensor:
        return laid_out(torch.randn(*shape, generator=generator).to(DEVICE, dtype), case.layout)

    primals = {name: random(*shape) for name, shape in shapes.items()}
    tangents = {name: random(case.T, *shape) for name, shape in shapes.items() if name in case.tangents}
    if case.masked:
        primals["b"] = primals["b"].masked_fill(torch.rand(bias, generator=generator).to(DEVICE) < 0.3, -torch.inf)
        primals["b"][..., bias[2] // 2, :] = -torch.inf  # these queries see nothing
    return {"b": None, "t": None, **primals}, {**dict.fromkeys("qkvbtg"), **tangents}


def run_backend(case: Case, x: dict, t: dict, parameters: dict) -> dict[str, Tensor]:
    """All results of the four maps by name; those not needed are checked to be None and left out."""
    x5 = [x[name] for name in "qkvbt"]
    t5 = [t[name] for name in "qkvbt"]
    needs = tuple(name in case.needs and x[name] is not None for name in "qkvbt")
    out, lse = backend.forward(*x5, **parameters)
    t_out, t_lse = None, None
    if any(tensor is not None for tensor in t5):
        t_out, t_lse = backend.tangent(*x5, out, lse, *t5, **parameters)
    d = backend.backward(*x5, out, lse, x["g"], **parameters, needs=needs)
    t_d = backend.backward_tangent(
        *x5, out, lse, x["g"], *t5, t_out, t_lse, t["g"], **parameters, needs=needs
    )  # fmt: skip
    results = {"out": out, "lse": lse, "t_out": t_out, "t_lse": t_lse}
    for name, needed, gradient, t_gradient in zip("qkvbt", needs, d, t_d, strict=True):
        assert (gradient is not None) == (t_gradient is not None) == needed, name
        results |= {f"d_{name}": gradient, f"t_d_{name}": t_gradient}
    return {name: result for name, result in results.items() if result is not None}


def differentiate(case: Case, x: dict, t: dict, parameters: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same results from ``eager`` computed in ``dtype``, by torch.func."""
    names = [name for name in "qkvbt" if x[name] is not None]
    primals = [x[name].to(dtype).contiguous() for name in names]
    grad = x["g"].to(dtype).contiguous()

    def attention(*tensors):
        return eager(*(dict(zip(names, tensors, strict=True)).get(name) for name in "qkvbt"), **parameters)

    def gradients(*tensors):
        return torch.func.vjp(lambda *y: attention(*y)[0], *tensors[:-1])[1](tensors[-1])

    def tangent(i, name):
        return torch.zeros_like(x[name], dtype=dtype) if t[name] is None else t[name][i].to(dtype).contiguous()

    out, lse = attention(*primals)
    results = {"out": out, "lse": lse} | {f"d_{n}": d for n, d in zip(names, gradients(*primals, grad), strict=True)}
    t_results = []
    for i in range(case.T):
        t_primals = tuple(tangent(i, name) for name in names)
        t_out, t_lse = torch.func.jvp(attention, tuple(primals), t_primals)[1]
        t_d = torch.func.jvp(gradients, (*primals, grad), (*t_primals, tangent(i, "g")))[1]
        t_results.append({"t_out": t_out, "t_lse": t_lse} | {f"t_d_{n}": d for n, d in zip(names, t_d, strict=True)})
    return results | {name: torch.stack([r[name] for r in t_results]) for name in t_results[0]}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch):
    if INTERPRETING:
        for name in ("config", "pair_config"):
            monkeypatch.setattr(triton_configs, name, lambda *_: triton_configs.Config(16, 16, 4, 1))


def check(case: Case, dtype: torch.dtype) -> None:
    """Errors, against float64, at most twice those of eager PyTorch in the same dtype, and a floor of eight epsilons.

    The floor is of the largest entry that the same map returns, at least 1: with one key, or summed over all keys, dS
    is 0 and eager's may be exactly 0, where dP - delta is only as exact as the two numbers whose difference it is. A
    bias's gradient sums such differences: their errors add up in squares.
    """
    x, t = inputs(case, dtype)
    parameters = {"scale": 0.3, "is_causal": case.is_causal, "grid": case.grid, "kernel_size": case.kernel_size}
    results = run_backend(case, x, t, parameters)
    exact = differentiate(case, x, t, parameters, torch.float64)
    same = differentiate(case, x, t, parameters, dtype)
    for name, result in results.items():
        assert result.shape == exact[name].shape, name
        assert result.dtype == (torch.float32 if name.endswith("lse") else dtype), name
        assert result.is_contiguous(), name
        assert torch.equal(result.isinf(), exact[name].isinf()), name
        scale = max(1.0, *(largest(exact[other]) for other in exact if other[:-1] == name[:-1] or other == name))
        off, eager_off = distance(result, exact[name]), distance(same[name], exact[name])
        summands = case.B * case.H * case.N * case.M / max(x["b"].numel(), 1) if name.endswith("_b") else 1.0
        bound = 2 * eager_off + 8 * torch.finfo(dtype).eps * scale * summands**0.5
        assert off <= bound, f"{name}: off by {off:.1e}, eager by {eager_off:.1e}, largest entry {scale:.1e}"


def largest(tensor: Tensor) -> float:
    """Magnitude of the largest entry, those that are infinite left out; NaN if there is one."""
    return tensor[~tensor.isinf()].abs().amax().item() if tensor.isfinite().any() or tensor.isnan().any() else 0.0


def distance(result: Tensor, exact: Tensor) -> float:
    """Largest difference of entries, where ``exact`` is finite."""
    return largest(result.double().masked_fill(exact.isinf(), 0.0) - exact.masked_fill(exact.isinf(), 0.0))


def cases(*selected: Case):
    return pytest.mark.parametrize("case", selected, ids=str)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(*(Case(N=N, M=M, bias="NM") for N in (1, 17, 33) for M in (1, 19, 40)))
def test_ragged_sizes(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@dtypes
@cases(
    Case(H=2, T=2, bias="HNM"),
    Case(N=17, M=33, bias="HM", is_causal=True, H=2),
    Case(N=33, M=17, is_causal=True),
    Case(bias="NM", masked=True),
    Case(B=2, M=8, bias="BNM", masked=True, is_causal=True),
    Case(bias="N", masked=True),
    Case(D=3, DV=33, bias="NM"),
    Case(D=70, DV=1),
    Case(D=200, DV=256, bias="NM"),
)
def test_masks_tangents_and_widths(case: Case, dtype: torch.dtype):
    check(case, dtype)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(
    *(Case(N=17, M=19, T=T, bias="NM", tangents=x) for T, x in ((1, "qkvbg"), (2, "kg"), (3, "qkvbg"), (3, "vb"))),
    Case(N=3, M=18, T=3, tangents="q", needs="v"),
)
def test_several_tangents(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("K", [1, 2, 3])
def test_vmap_over_tangents_shares_programs(K: int, monkeypatch: pytest.MonkeyPatch):
    """Of K tangents K // 2 programs have two each, and one the last where K is odd; the gradient is computed once."""
    started: dict[str, list[tuple[int, int]]] = {}

    def spy(kernel, programs, config, device, **arguments):
        numbers = (arguments.get("T", 0), arguments.get("TANGENTS", 0))
        started.setdefault(kernel.__name__.removeprefix("attention_").removesuffix("_kernel"), []).append(numbers)
        triton_launch.launch(kernel, programs, config, device, **arguments)

    monkeypatch.setattr(triton_problem, "launch", spy)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 2, 9, 16, generator=generator).to(DEVICE)
    vectors = torch.randn(K, *x.shape, generator=generator).to(DEVICE)

    def products(x, vectors, backend):
        def loss(x):
            return alternet_attention(*x).square().sum()

        with use_backend(backend):
            return torch.func.vmap(lambda v: torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1])(vectors)

    torch.testing.assert_close(
        products(x, vectors, "triton"),
        products(x.double(), vectors.double(), "reference").float(),
        rtol=1e-4,
        atol=1e-4,
    )
    pairs = [(K // 2 * 2, 2)] if K > 1 else []
    one = [(1, 1)] if K % 2 else []
    for name in ("tangent", "backward_tangent_query", "backward_tangent_key_value"):
        assert started[name] == pairs + one, name
    assert started["backward_query"] == [(0, 0)]


BROADCASTS = ["".join(axes) or "-" for n in range(5) for axes in itertools.combinations("BHNM", n)]


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(*(Case(B=2, H=2, N=3, M=5, bias=axes, tangents="b", needs="b") for axes in BROADCASTS))
def test_bias_broadcasts(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(Case(B=2, M=8, bias="-", needs="b"), Case(M=8, bias="M", needs="b"), Case(N=8, M=33, bias="N", needs="b"))
def test_bias_sum_over_tiles(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_bias_sum_in_one_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_problem, "BIAS_PROGRAMS", 1)
    check(Case(B=3, H=2, N=3, M=5, bias="HM", tangents="b", needs="b"), torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(*(Case(H=2, N=5, M=18, bias="NM", layout=x) for x in ("tokens first", "features first", "broadcast", "sliced")))
def test_strides(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(*(Case(N=3, M=5, bias="NM", tangents=x) for x in ("q", "k", "v", "b", "g", "qg", "kv", "vg", "bg", "qkv")))
def test_missing_tangents(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(*(Case(N=3, M=5, bias="NM", needs=x) for x in ("", "q", "k", "v", "b", "qv", "kb")))
def test_needs(case: Case):
    check(case, torch.float32)


@runs_kernels
@cases(
    Case(B=0, bias="HNM"), Case(H=0, bias="BNM"), Case(N=0, bias="BM"), Case(N=0, bias="N"), Case(M=0, bias="N"),
    Case(M=0, bias="NM"), Case(M=0, is_causal=True), Case(B=0, N=0, M=0, bias="BM"),
)  # fmt: skip
def test_empty(case: Case):
    check(case, torch.float32)


@runs_kernels
@cases(Case(N=70, M=130, D=64, DV=64, bias="NM"), Case(N=49, M=49, D=32, DV=32, bias="NM", is_causal=True))
def test_default_tiles(case: Case):
    check(case, torch.float32)


def on_grid(height: int, width: int, **changes: object) -> Case:
    return Case(N=height * width, M=height * width, grid=(height, width), **changes)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(
    on_grid(2, 5, H=2, T=3, table="H", bias="NM"),
    on_grid(3, 4, B=2, table="BH", bias="BM", masked=True),
    on_grid(6, 3, table="-", kernel_size=(3, 2), is_causal=True),
    on_grid(4, 5, kernel_size=(2, 3), tangents="qk", needs="kv"),
)
def test_tables_and_neighbourhoods(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@dtypes
@cases(on_grid(3, 5, table="-", kernel_size=(3, 3)), Case(H=4, N=5, M=3, key_heads=2, bias="H"))
def test_tables_and_groups_in_each_dtype(case: Case, dtype: torch.dtype):
    check(case, dtype)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
@cases(
    *(on_grid(2, 3, B=2, H=2, table=axes, tangents="t", needs="t") for axes in ("-", "B", "H", "BH")),
    *(on_grid(2, 3, table="-", tangents=x, needs="t") for x in ("vt", "g", "k")),
    *(on_grid(h, w, table="-", tangents="t", needs="t") for h, w in ((1, 1), (3, 1), (1, 18))),
    on_grid(2, 3, B=0, H=2, table="H"),
    on_grid(2, 3, table="-", tangents="t", needs="t", layout="features first"),
)
def test_tables_by_parts(case: Case):
    check(case, torch.float32)


@runs_kernels
@pytest.mark.usefixtures("small_tiles")
def test_table_sum_in_one_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton_problem, "BIAS_PROGRAMS", 1)
    check(on_grid(2, 3, B=2, table="-", tangents="t", needs="t"), torch.float32)
