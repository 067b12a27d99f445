"""Every operator's folder has ``cases.py``: the tests here run on whatever operators they find."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import alternet.kernels
from alternet.kernels import available_backends, use_backend

FOLDER = Path(alternet.kernels.__file__).parent
OPERATORS = sorted(path.parent.name for path in FOLDER.glob("*/cases.py"))
DOUBLE_BACKENDS = [name for name in ("reference", "cpu") if available_backends()[name] is None]


@dataclass(frozen=True)
class Case:
    """One operator on one set of inputs: ``ours`` and ``eager`` are functions of the tensors in ``x``."""

    module: Any
    x: tuple[Tensor, ...]
    where: tuple[int, ...]  # which inputs the tensors of x are; the others are None or constants
    parameters: dict[str, Any]
    constants: dict[int, Tensor]  # inputs that the operator is not differentiated by

    def _all(self, given: tuple[Tensor, ...]) -> list[Tensor | None]:
        full: list[Tensor | None] = [None] * len(self.module.operator.signature.inputs)
        for i, tensor in (*self.constants.items(), *zip(self.where, given, strict=True)):
            full[i] = tensor
        return full

    def ours(self, *x: Tensor) -> Tensor:
        return self.module.operator(*self._all(x), *self.parameters.values())

    def eager(self, *x: Tensor) -> Tensor:
        return self.module.eager(*self._all(x), **self.parameters)

    def tangents(self, seed: int, *lead: int) -> tuple[Tensor, ...]:
        """Random tangents of x with further leading axes; finite also where x is not."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(*lead, *t.shape, generator=generator, dtype=t.dtype) for t in self.x)


def load(operator: str, name: str) -> Case:
    module = importlib.import_module(f"alternet.kernels.{operator}.cases")
    given, parameters = module.CASES[name]
    signature = module.operator.signature
    fixed = [signature.inputs.index(name) for name in signature.constants]
    where = tuple(i for i, t in enumerate(given) if t is not None and i not in fixed)
    constants = {i: given[i] for i in fixed if given[i] is not None}
    return Case(module, tuple(given[i] for i in where), where, parameters, constants)


def _names() -> list[tuple[str, str]]:
    found = []
    for operator in OPERATORS:
        module = importlib.import_module(f"alternet.kernels.{operator}.cases")
        found += [(operator, name) for name in module.CASES]
    return found


@pytest.fixture(params=_names(), ids=lambda pair: "-".join(pair).replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> Case:
    return load(*request.param)


@pytest.fixture(params=DOUBLE_BACKENDS)
def backend(request: pytest.FixtureRequest):
    """Every backend with float64 arithmetic that can run here, switched on for the test."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def watched_outputs(monkeypatch: pytest.MonkeyPatch):
    """Every torch.empty is NaN, so that an entry nobody writes shows, and ends in a fence that nobody may write."""
    empty, fence, fenced = torch.empty, 64, []

    def poisoned(*shape, dtype=None, device=None):
        size = torch.Size(shape).numel()
        whole = empty(size + fence, dtype=dtype, device=device).fill_(torch.nan)
        fenced.append((whole, size))
        return whole[:size].view(shape)

    monkeypatch.setattr(torch, "empty", poisoned)
    yield
    monkeypatch.undo()
    for whole, size in fenced:
        assert whole[size:].isnan().all(), "written beyond the end of an output"
