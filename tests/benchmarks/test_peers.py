"""The table of right, wrong and refused derivatives can tell them apart."""

from __future__ import annotations

import pytest
import torch

from alternet.kernels import attention
from benchmarks import peers
from benchmarks.peers import QUESTIONS, Package, Question, eager, verdict


class FirstOrderOnly(torch.autograd.Function):
    """Silently constant after one derivative, as wrapped kernels often are."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        return eager(query, key, value)

    @staticmethod
    def backward(ctx, g):
        x = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            return torch.autograd.grad(eager(*x), x, g.detach())


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_derivative_of_ours_is_right(name: str):
    assert verdict(Package(attention, attention), QUESTIONS[name], "cpu") == "right"


def test_a_missing_second_derivative_is_not_called_right():
    package = Package(FirstOrderOnly.apply, FirstOrderOnly.apply)
    assert verdict(package, QUESTIONS["gradient"], "cpu") == "right"
    assert verdict(package, QUESTIONS["double backward"], "cpu") == "refuses (RuntimeError)"
    assert verdict(package, QUESTIONS["double backward inside a model"], "cpu").startswith("**wrong** (")


def test_nan_and_missing_answers_are_wrong():
    x = torch.ones(2)
    for answer, want in (([x, x * torch.nan], "**wrong** (NaN)"), ([x], "**wrong** (missing)")):
        right = Question(lambda f, _, answer=answer: [x, x] if f is eager else answer)
        assert verdict(Package(attention, attention), right, "cpu") == want


def test_peers_are_optional(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert list(peers.packages()) == ["alternet", "SDPA, math", "SDPA, fused", "FlexAttention"]
