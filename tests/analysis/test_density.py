"""Stochastic Lanczos quadrature and Hutch++ against dense matrices, whose spectra are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alternet.analysis.solvers.density import spectral_density
from alternet.analysis.solvers.trace import moments
from alternet.analysis.training.seeding import derived_seed


def matrix(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Symmetric, with these eigenvalues in random directions."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(square)[0]
    return basis @ eigenvalues.double().diag() @ basis.T


def hessian_like(n: int = 200) -> torch.Tensor:
    """A few large eigenvalues over a bulk of both signs, as networks have."""
    return matrix(torch.cat([torch.tensor([50.0, 20.0, 9.0, -4.0]), torch.linspace(-0.5, 1.0, n - 4)]))


def test_the_error_of_a_share_holds_what_the_quadrature_cannot_tell():
    """Of few nodes the error over the probes alone is far too small."""
    generator = np.random.default_rng(0)
    heads = 50 * 0.8 ** np.arange(20), -10 * 0.7 ** np.arange(10), generator.laplace(0.02, 0.05, 270)
    values = torch.from_numpy(np.concatenate(heads))
    true = float((values < 0).double().mean())
    inside = 0
    for seed in range(20):
        share, error = spectral_density(torch.diag(values), probes=5, steps=30, seed=seed).below(0.0)
        inside += abs(share - true) <= 2 * error
    assert inside >= 18


def test_each_quadrature_is_gaussian():
    """Exact for polynomials up to degree 2·steps - 1 of its own probe's measure."""
    dense, steps = hessian_like(), 6
    density = spectral_density(dense, probes=3, steps=steps, seed=5)
    for probe in range(3):
        generator = torch.Generator().manual_seed(derived_seed(5, "probe", probe))
        start = torch.randn(len(dense), generator=generator).double()
        start /= start.norm()
        power = start
        for degree in range(2 * steps):
            exact = float(start @ power)
            got = float((density.weights[probe] * density.nodes[probe] ** degree).sum())
            assert got == pytest.approx(exact, rel=1e-9, abs=1e-12)
            power = dense @ power
    assert density.products == 3 * steps
    np.testing.assert_allclose(density.weights.sum(1), 1.0, rtol=1e-12)


def test_means_are_within_their_errors_of_the_dense_ones():
    dense = hessian_like()
    values = torch.linalg.eigvalsh(dense).numpy()
    density = spectral_density(dense, probes=40, steps=30)
    for function in (lambda x: x, np.square, np.abs):
        mean, error = density.mean(function)
        assert 0 < error < 0.3 * function(values).mean()
        assert abs(mean - function(values).mean()) <= 4 * error
    share, error = density.below(0.0)
    assert abs(share - (values < 0).mean()) <= 4 * error + 0.02  # the quadrature's own steps of a few per cent


def test_curve_is_the_smoothed_density():
    values = torch.cat([torch.full((60,), -1.0), torch.full((140,), 2.0)])
    density = spectral_density(matrix(values), probes=30, steps=20)
    grid = np.linspace(-4, 5, 2001)
    curve, error = density.curve(grid, bandwidth=0.2)
    assert np.trapezoid(curve, grid) == pytest.approx(1.0, abs=1e-6)
    left = np.trapezoid(curve[grid < 0.5], grid[grid < 0.5])
    assert left == pytest.approx(0.3, abs=0.05)
    assert error.max() < 0.1 * curve.max()
    assert density.products == 60  # two distinct eigenvalues: each Krylov space ends after two steps


@pytest.mark.parametrize("block_size", [2, 3, 7])
def test_probes_side_by_side_are_those_one_after_the_other(block_size: int):
    dense = hessian_like(60)
    one, many = (spectral_density(dense, probes=5, steps=12, block_size=size) for size in (1, block_size))
    np.testing.assert_allclose(many.nodes, one.nodes, rtol=0, atol=1e-10)
    np.testing.assert_allclose(many.weights, one.weights, rtol=0, atol=1e-10)
    assert many.products == one.products == 60


def test_products_are_reported():
    dense, calls = hessian_like(60), []
    spectral_density(dense, probes=3, steps=4, block_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(0, 12), (2, 12), (4, 12), (6, 12), (8, 12), (8, 12), (9, 12), (10, 12), (11, 12), (12, 12)]
    calls.clear()
    moments(dense, products=9, progress=lambda *call: calls.append(call))
    assert calls == [(done, 9) for done in range(10)]


def test_one_probe_has_no_error_bar():
    mean, error = spectral_density(hessian_like(20), probes=1, steps=4).mean(lambda x: x)
    assert math.isfinite(mean)
    assert math.isnan(error)


def test_the_draws_are_the_seeds():
    dense = hessian_like(50)
    one, again, other = (spectral_density(dense, probes=2, steps=5, seed=seed) for seed in (1, 1, 9))
    assert np.array_equal(one.nodes, again.nodes)
    assert not np.allclose(one.nodes, other.nodes)


def test_moments_are_within_their_errors():
    dense = hessian_like(300)
    values = torch.linalg.eigvalsh(dense)
    found = moments(dense, products=90)
    assert abs(found.trace - float(values.sum())) <= 4 * found.trace_error
    assert abs(found.squared_frobenius - float(values.square().sum())) <= 4 * found.squared_frobenius_error
    assert found.trace_error < 0.05 * float(values.sum())
    assert found.products == 90
    assert found.frobenius == pytest.approx(float(values.square().sum().sqrt()), rel=0.01)


def test_moments_beat_plain_sampling_where_few_directions_hold_the_trace():
    """The same products spent on random signs alone are off by several times as much."""
    dense = hessian_like(300)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (90, 300), generator=generator).double() * 2 - 1
    plain = torch.einsum("pi,ij,pj->p", signs, dense, signs).std() / math.sqrt(90)
    assert moments(dense, products=90).trace_error < 0.5 * float(plain)


@pytest.mark.parametrize("rank", [0, 3, 12])
def test_moments_of_low_rank_are_exact(rank: int):
    values = torch.cat([torch.linspace(-1, 3, rank, dtype=torch.float64), torch.zeros(12 - rank)]).double()
    found = moments(matrix(values), products=36)
    assert found.trace == pytest.approx(float(values.sum()), abs=1e-10)
    assert found.squared_frobenius == pytest.approx(float(values.square().sum()), abs=1e-10)
    assert found.trace_error <= 1e-10


def test_moments_accumulate_in_float64():
    dense = hessian_like(300)
    double, single = moments(dense, products=60), moments(dense.float(), products=60)
    assert single.trace == pytest.approx(double.trace, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral_density(torch.eye(3), probes=0), "probes: expected at least 1, got 0"),
        (lambda: spectral_density(torch.eye(3), block_size=0), "block_size: expected at least 1, got 0"),
        (lambda: spectral_density(torch.eye(3), steps=0), "steps: expected at least 1, got 0"),
        (lambda: spectral_density(torch.ones(3, 2)), r"op: expected a square operator, got shape \(3, 2\)"),
        (lambda: moments(torch.ones(3, 2)), r"op: expected a square operator, got shape \(3, 2\)"),
        (lambda: moments(torch.eye(3), products=2), "products: expected at least 3, got 2"),
        (lambda: spectral_density(torch.eye(3)).curve(np.zeros(1), bandwidth=0.0), "bandwidth: expected a positive"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dtype_and_nan():
    for call in (spectral_density, moments):
        with pytest.raises(TypeError, match=r"op: expected float32 or float64, got torch\.int64"):
            call(torch.eye(3, dtype=torch.int64))
        with pytest.raises(FloatingPointError, match="NaN or infinite"):
            call(torch.full((3, 3), torch.nan))
