"""The wanted values of a spectrum, and bounds that must hold whatever the spectrum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.solvers.ritz import Wanted, gap_bounds

VALUES = torch.tensor([0.5, -7, 3, -3, 1, 6], dtype=torch.float64)
KINDS = [torch.float32, torch.float64]


@pytest.mark.parametrize(
    ("which", "k", "chosen"),
    [
        ("LM", 3, [-7, 6, 3]),
        ("LA", 3, [6, 3, 1]),
        ("SA", 3, [-7, -3, 0.5]),
        ("BE", 3, [6, 3, -7]),
        ("BE", 4, [6, 3, -3, -7]),
        ("BE", 1, [6]),
        ("BE", 6, [6, 3, 1, 0.5, -3, -7]),
        ("LA", 6, [6, 3, 1, 0.5, -3, -7]),
    ],
)
def test_the_wanted_ones(which, k, chosen):
    wanted = Wanted(which, k)
    assert VALUES[wanted.chosen(VALUES)].tolist() == chosen
    order = wanted.order(VALUES)
    assert sorted(order.tolist()) == list(range(6))
    assert set(VALUES[order[:k]].tolist()) == set(chosen)


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_equal_values_are_chosen_once(which):
    assert sorted(Wanted(which, 4).order(torch.zeros(4)).tolist()) == [0, 1, 2, 3]


def test_every_end_has_its_scale():
    values = torch.tensor([50.0, 2, -0.1, -4])
    assert Wanted("BE", 4).scales(values).tolist() == [50, 50, 4, 4]
    assert Wanted("LM", 4).scales(values).tolist() == [50] * 4
    assert Wanted("BE", 5).scales(values[:2]).tolist() == [50, 50]  # too few to tell the ends apart


def test_gap_bounds_are_temples():
    values = torch.tensor([10.0, 8, 0], dtype=torch.float64)
    residuals = torch.tensor([0.1, 0.5, 7.6], dtype=torch.float64)
    found = gap_bounds(values, residuals, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.01 / 1.5, 0.5], dtype=torch.float64))  # no gap: the residual


def symmetric(values, seed):
    draw = torch.randn(len(values), len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    vectors = torch.linalg.qr(draw).Q
    product = vectors * values @ vectors.t()
    return (product + product.t()) / 2


@settings(max_examples=25, deadline=None)
@given(
    spectrum=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40),
    which=st.sampled_from(["LM", "LA", "SA", "BE"]),
    dtype=st.sampled_from(KINDS),
    block_size=st.integers(1, 3),
    steps=st.integers(1, 60),
    seed=st.integers(0, 3),
)
def test_an_eigenvalue_lies_within_the_bound_converged_or_not(spectrum, which, dtype, block_size, steps, seed):
    n = len(spectrum)
    h = symmetric(torch.tensor(spectrum, dtype=torch.float64), seed).to(dtype)
    k, b = min(3, n), min(block_size, n)
    found = top_eigenvalues(
        h, k, which=which, tol=1e-6, block_size=b, max_basis=min(k + 2 * b, n), max_products=max(steps, k), seed=seed
    )
    exact = torch.linalg.eigvalsh(h.double())
    distance = (exact[:, None] - found.values).abs().min(dim=0).values
    assert (distance <= found.bounds + 1e-13 * exact.abs().max()).all()


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.floats(1, 50, width=32), min_size=6, max_size=30),
    shift=st.floats(-200, 200, width=32),
    which=st.sampled_from(["LM", "LA", "SA", "BE"]),
    dtype=st.sampled_from(KINDS),
    seed=st.integers(0, 3),
)
def test_the_gap_bound_holds_where_eigenvalues_are_told_apart(gaps, shift, which, dtype, seed):
    """Eigenvalues at least 1 apart and residuals far below that: each Ritz value has its own."""
    values = torch.tensor(gaps, dtype=torch.float64).cumsum(0) + shift
    h = symmetric(values, seed).to(dtype)
    found = top_eigenvalues(h, 3, which=which, tol=1e-4 / float(values.abs().max()), seed=seed, max_products=1000)
    exact = torch.linalg.eigvalsh(h.double())
    distance = (exact[:, None] - found.values).abs().min(dim=0).values
    assert (distance <= found.gap_bounds + 1e-13 * exact.abs().max()).all()
    assert (found.gap_bounds <= found.bounds).all()
