"""PyTorch's own numerical checks: gradcheck, gradgradcheck, forward over reverse, batched gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck


def finite(case):
    """Hidden keys are -inf, which numerical differences cannot perturb."""
    return all(t.isfinite().all() for t in case.x)


@pytest.mark.filterwarnings("ignore:alternet. this derivative")
def test_first_and_second_derivatives_numerically(case, backend):
    if not finite(case):
        case = dataclasses.replace(case, x=tuple(t.clamp(min=-30) for t in case.x))
    x = tuple(_first(t).clone().requires_grad_() for t in case.x)
    case = dataclasses.replace(case, constants={i: _first(t) for i, t in case.constants.items()})
    assert gradcheck(
        case.ours, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True, fast_mode=False
    )
    assert gradgradcheck(case.ours, x, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


def _first(t):
    """Of one head, or row: numerical Jacobians are dense."""
    return t[:, :1] if t.dim() > 1 else t


def test_case_inputs_are_double(case):
    assert all(t.dtype == torch.float64 for t in case.x)
