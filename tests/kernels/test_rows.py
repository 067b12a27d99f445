"""The four maps of the row-wise operators, cpu and Triton, against float64 eager PyTorch differentiated by PyTorch.

The Triton kernels run on a GPU, where there is one, and in Triton's interpreter, which must be chosen before Triton is
imported: ``test_in_the_interpreter`` runs this file again in a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools

import pytest
import torch
from torch import Tensor

from alternet.kernels import available_backends

from .triton_runs import INTERPRETING, passes_in_interpreter, starts_interpreter

BACKENDS = [name for name in (("triton",) if INTERPRETING else ("cpu", "triton")) if available_backends()[name] is None]
DEVICES = {"cpu": "cpu", "triton": "cpu" if INTERPRETING else "cuda"}


def _cases(operator: str):
    return importlib.import_module(f"alternet.kernels.{operator}.cases")


MANY = 70 if INTERPRETING else 600  # rows
# operator -> keyword arguments of its cases.inputs: one row, one column, ragged vectors, several tasks and tiles
SIZES = {
    "layer_norm": [
        {"batch": 1, "rows": 1, "width": 3},
        {"batch": 1, "rows": 70, "width": 37},
        {"batch": 2, "rows": 19, "width": 64, "weight": 2, "bias": 1},
        {"batch": 3, "rows": 5, "width": 9, "weight": None, "bias": 3},
        {"batch": 1, "rows": MANY, "width": 16},
        {"batch": 1, "rows": 3, "width": 1030, "weight": None, "bias": None},
    ],
    "activation": [
        {"batch": 1, "rows": 1, "width": 3},
        {"batch": 1, "rows": 70, "width": 37},
        {"batch": 2, "rows": 19, "width": 64, "bias": 2},
        {"batch": 3, "rows": 5, "width": 709, "bias": None},
        {"batch": 1, "rows": MANY, "width": 16},
    ],
    "cross_entropy": [
        {"batch": 1, "rows": 1, "width": 1},
        {"batch": 1, "rows": MANY // 10, "width": 37},
        {"batch": 2, "rows": MANY // 20, "width": 64, "soft": True},
        {"batch": 3, "rows": 5, "width": 1030},
        {"batch": 1, "rows": 4, "width": 2100, "soft": True},
    ],
    "batch_norm": [
        {"batch": 1, "rows": 2, "width": 3, "channels": 1},
        {"batch": 1, "rows": 5, "width": 37, "channels": 4},
        {"batch": 2, "rows": 3, "width": 16, "groups": 2},
        {"batch": 3, "rows": 2, "width": 9, "constant": True},
        {"batch": 1, "rows": MANY // 10, "width": 50, "affine": False},
    ],
}
FIRST = {operator: _cases(operator).CASES for operator in SIZES}
WORKS = [(operator, i) for operator in SIZES for i in range(len(SIZES[operator]))]
works = pytest.mark.parametrize("work", WORKS, ids=lambda w: f"{w[0]}-{w[1]}")
operators = pytest.mark.parametrize("operator", SIZES)


class Problem:
    """One call: inputs in ``dtype`` on the backend's device, the cotangent, tangents of both, parameters."""

    def __init__(
        self, operator: str, backend: str, sizes: dict, dtype: torch.dtype, T: int = 2, name: str = ""
    ) -> None:
        cases = _cases(operator)
        self.signature, self.eager = cases.operator.signature, cases.eager
        self.parameters = cases.CASES[name or next(iter(cases.CASES))][1]
        self.maps = importlib.import_module(f"alternet.kernels.{operator}.{backend}")
        self.dtype, self.T, device = dtype, T, DEVICES[backend]
        self.x = [None if t is None else t.to(device) for t in cases.inputs(**sizes, dtype=dtype)]
        constants = self.signature.constants
        inputs = zip(self.signature.inputs, self.x, strict=True)
        self.where = [i for i, (n, t) in enumerate(inputs) if t is not None and n not in constants]
        self.generator = torch.Generator().manual_seed(1)
        y = self._eager(torch.float64)(*self._given(torch.float64))
        self.g = self.random(*y.shape, dtype=self.maps.forward(*self.x, **self.parameters)[0].dtype)
        self.t_x = [self.random(T, *t.shape) if i in self.where else None for i, t in enumerate(self.x)]
        self.t_g: Tensor | None = self.random(T, *self.g.shape, dtype=self.g.dtype)
        self.needs = tuple(i in self.where for i in range(len(self.x)))

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        device = next(t for t in self.x if t is not None).device
        return torch.randn(*shape, generator=self.generator).to(device, dtype or self.dtype)

    def run(self) -> dict[str, Tensor]:
        """All results of the backend's four maps by name; those not needed are checked to be None and left out."""
        yr = self.maps.forward(*self.x, **self.parameters)
        t_yr = [None] * len(yr)
        if any(t is not None for t in self.t_x):
            t_yr = self.maps.tangent(*self.x, *yr, *self.t_x, **self.parameters)
        d = self.maps.backward(*self.x, *yr, self.g, **self.parameters, needs=self.needs)
        primal = (*self.x, *yr, self.g, *self.t_x, *t_yr, self.t_g)
        t_d = self.maps.backward_tangent(*primal, **self.parameters, needs=self.needs)
        results = {"y": yr[0], "t_y": t_yr[0]}
        for name, need, one, other in zip(self.signature.inputs, self.needs, d, t_d, strict=True):
            assert (one is not None) == (other is not None) == need, name
            results |= {f"d_{name}": one, f"t_d_{name}": other}
        return {name: t for name, t in results.items() if t is not None}

    def expected(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The same by the eager formula in ``dtype`` and torch.func."""
        f, given, g = self._eager(dtype), self._given(dtype), self.g.to(dtype)
        names = [self.signature.inputs[i] for i in self.where]

        def gradients(*both: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(f, *both[:-1])[1](both[-1])

        def along(t: Tensor | None, like: Tensor, k: int) -> Tensor:
            return torch.zeros_like(like) if t is None else t[k].to(dtype)

        results = {"y": f(*given)} | {f"d_{n}": d for n, d in zip(names, gradients(*given, g), strict=True)}
        rows = []
        for k in range(self.T):
            t = tuple(along(self.t_x[i], x, k) for i, x in zip(self.where, given, strict=True))
            t_d = torch.func.jvp(gradients, (*given, g), (*t, along(self.t_g, g, k)))[1]
            row = {"t_y": torch.func.jvp(f, given, t)[1]}
            rows.append(row | {f"t_d_{n}": d for n, d in zip(names, t_d, strict=True)})
        return results | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def check(self) -> None:
        """Errors, against float64, at most twice those of eager PyTorch in the same dtype and a few roundings."""
        results, exact, same = self.run(), self.expected(torch.float64), self.expected(self.dtype)
        for name, result in results.items():
            assert result.shape == exact[name].shape, name
            assert result.is_contiguous(), name
            assert result.dtype == (self.g.dtype if name in ("y", "t_y") else self.dtype), name
            off, eager_off = (largest(t.double() - exact[name]) for t in (result, same[name]))
            bound = 2 * eager_off + max(1e-12, 32 * torch.finfo(self.dtype).eps) * max(1.0, largest(exact[name]))
            assert off <= bound, f"{name}: off by {off:.1e}, eager by {eager_off:.1e}, bound {bound:.1e}"

    def _given(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(self.x[i].to(dtype) for i in self.where)

    def _eager(self, dtype: torch.dtype):
        def f(*given: Tensor) -> Tensor:
            full = [t.to(dtype) if t is not None and t.is_floating_point() else t for t in self.x]
            for i, t in zip(self.where, given, strict=True):
                full[i] = t
            return self.eager(*full, **self.parameters)

        return f


def largest(t: Tensor) -> float:
    return t.abs().amax().item() if t.numel() else 0.0


@pytest.fixture(autouse=True)
def threads():
    """Sets the number of threads for one test: one, where the test asks for no more (these sizes are small)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def dtypes_of(backend: str) -> tuple[torch.dtype, ...]:
    return (torch.float32, torch.float16) if backend == "triton" else (torch.float64, torch.float32, torch.bfloat16)


@starts_interpreter
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_in_the_interpreter():
    passes_in_interpreter(__file__)


@works
def test_sizes(work, backend):
    operator, i = work
    for dtype in dtypes_of(backend)[: 1 if INTERPRETING and i else None]:
        Problem(operator, backend, SIZES[operator][i], dtype, T=1 + i % 3).check()


@operators
def test_parameters(operator, backend):
    for name in FIRST[operator]:
        Problem(operator, backend, SIZES[operator][0 if INTERPRETING else 1], dtypes_of(backend)[0], name=name).check()


@operators
def test_missing_tangents_are_zeros(operator, backend):
    problem = Problem(operator, backend, SIZES[operator][2], dtypes_of(backend)[0])
    t_x, t_g = problem.t_x, problem.t_g
    sizes = range(1, 2 if INTERPRETING else len(problem.where) + 1)
    subsets = [s for n in sizes for s in itertools.combinations(problem.where, n)]
    for subset in [*subsets, ()]:
        problem.t_x = [t if i in subset else None for i, t in enumerate(t_x)]
        for given in (t_g, None) if subset else (t_g,):
            problem.t_g = given
            problem.check()


@operators
def test_only_what_is_needed(operator, backend):
    problem = Problem(operator, backend, SIZES[operator][2], dtypes_of(backend)[0])
    everything, possible = problem.run(), problem.needs
    for flags in itertools.product((False, True), repeat=len(problem.where)):
        if INTERPRETING and sum(flags) != 1:
            continue
        chosen = dict(zip(problem.where, flags, strict=True))
        problem.needs = tuple(chosen.get(i, False) for i in range(len(possible)))
        for name, result in problem.run().items():
            assert torch.equal(result, everything[name]), name


@operators
def test_strides(operator, backend):
    """Transposed, sliced and expanded tensors give what their contiguous copies give."""
    problem = Problem(operator, backend, SIZES[operator][2], dtypes_of(backend)[0])
    expected = problem.run()

    def strided(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        apart = t.repeat_interleave(2, -1)[..., ::2]  # every other column
        return apart.transpose(0, 1).contiguous().transpose(0, 1)

    problem.x, problem.t_x = [strided(t) for t in problem.x], [strided(t) for t in problem.t_x]
    problem.g, problem.t_g = strided(problem.g), strided(problem.t_g)
    for name, result in problem.run().items():
        assert torch.equal(result, expected[name]), name


@pytest.mark.parametrize("operator", ["activation", "batch_norm"])
def test_relu_has_pytorchs_slope_at_nan(operator, backend):
    """What is not <= 0 passes a cotangent on."""
    maps = importlib.import_module(f"alternet.kernels.{operator}.{backend}")
    numbers, grad = (torch.tensor(t, device=DEVICES[backend]) for t in ([-1.0, torch.nan, 0.0, 2.0], [1.0, 2, 3, 4]))
    if operator == "activation":
        x, g = numbers.view(1, 1, 4), grad.view(1, 1, 4)
        d = maps.backward(x, None, x, g, kind="relu", needs=(True, False))[0]
    else:
        x, g, mean = numbers.view(1, 1, 1, 4), grad.view(1, 1, 1, 4), numbers[2:3].view(1, 1, 1, 1)
        options = {"eps": 1.0, "activation": "relu"}  # mean and var 0
        statistics = maps.forward(x, None, None, mean, mean, **options)[1:]
        d = maps.backward(x, None, None, mean, mean, x, *statistics, g, **options, needs=(True, *(False,) * 4))[0]
    assert d.flatten().tolist() == [0, 2, 0, 4]


@operators
def test_empty(operator, backend):
    sizes = {**SIZES[operator][1], "rows": 0}
    results = Problem(operator, backend, sizes, torch.float32).run()
    for name, result in results.items():
        assert (result == 0).all(), name


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the C++ extension is not built")
@operators
def test_results_do_not_depend_on_the_number_of_threads(operator, threads):
    for sizes in SIZES[operator][1:3]:
        problem = Problem(operator, "cpu", sizes, torch.float32)
        one = problem.run()
        threads(3)
        for name, result in problem.run().items():
            assert torch.equal(result, one[name]), name
        threads(1)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the C++ extension is not built")
@operators
@pytest.mark.parametrize("name", [] if "cpu" not in BACKENDS else torch.ops.alternet_native.instruction_sets())
def test_every_instruction_set(operator, name):
    ops = torch.ops.alternet_native
    before = ops.use_instruction_set(name)
    try:
        for sizes in SIZES[operator][1:3]:
            for dtype in (torch.float64, torch.float32, torch.float16):
                Problem(operator, "cpu", sizes, dtype).check()
    finally:
        ops.use_instruction_set(before)
