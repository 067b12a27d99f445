"""Partial reorthogonalisation: what it may lose, what it must not, on matrices with prescribed spectra."""

import pytest
import torch

from alternet.analysis.solvers.density import spectral_density
from alternet.analysis.solvers.krylov import LanczosProcess
from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.solvers.vectors import Basis

DTYPES = [torch.float32, torch.float64]
BULK = torch.linspace(-0.5, 0.5, 290)
SPECTRA = {
    "outliers": torch.cat([torch.tensor([300.0, 120, 80, 75, 60, -40, 20, 9, -4, 2]), BULK]),
    "clustered": torch.cat([torch.tensor([10.0, 9.999, 9.998, 9.99, 9.9, 5, 4.999, -3, -2.999, -2]), BULK]),
    "without-gaps": torch.linspace(-5, 5.1, 300),
    "geometric": 10.0 ** -torch.arange(0, 8, 0.027),
}


def matrix(name, dtype):
    values = SPECTRA[name].double()
    draw = torch.randn(len(values), len(values), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors = torch.linalg.qr(draw).Q
    product = vectors * values @ vectors.t()
    return ((product + product.t()) / 2).to(dtype)


def root(dtype):
    return torch.finfo(dtype).eps ** 0.5


def steps_of(h, count, overlap):
    process = LanczosProcess(h, 1, overlap=overlap)
    for _ in range(count):
        process.step()
    return process


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_a_basis_stays_as_orthogonal_as_was_asked(name, dtype):
    """Without reorthogonalisation overlaps reach 1 in these runs, and eigenvalues come back as copies."""
    h = matrix(name, dtype)
    partial = steps_of(h, 60, root(dtype))
    q = torch.cat([partial.basis.vectors().double(), partial.block.double().t()], dim=1)
    overlaps = q.t() @ q - torch.eye(61, dtype=torch.float64)
    assert overlaps.abs().max() <= root(dtype)
    assert abs(partial.ritz().values.max() - torch.linalg.eigvalsh(h.double())[-1]) <= 2e-5 * SPECTRA[name].max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_ritz_values_are_those_of_full_reorthogonalisation(name, dtype):
    h = matrix(name, dtype)
    partial, full = (steps_of(h, 40, overlap).ritz().values.sort().values for overlap in (root(dtype), 0.0))
    scale = SPECTRA[name].abs().max().item()
    torch.testing.assert_close(partial[-5:], full[-5:], rtol=0, atol=20 * torch.finfo(dtype).eps * scale)
    torch.testing.assert_close(partial[:5], full[:5], rtol=0, atol=1e-4 * scale)  # not yet converged


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_bounds_hold_for_every_ritz_vector(name, dtype):
    """Also behind restarts: ‖H u - θ u‖ of unit u is within its bound and what rounding adds to it."""
    h = matrix(name, dtype)
    process = steps_of(h, 30, root(dtype))
    for count in (30, 40):
        pairs = process.ritz()
        u = process.basis.vectors().double() @ pairs.coordinates
        residuals = (h.double() @ u - u * pairs.values).norm(dim=0) / u.norm(dim=0)
        rounding = 20 * torch.finfo(dtype).eps * SPECTRA[name].abs().max()
        assert (residuals <= pairs.residuals + rounding).all()
        process.restart(pairs, pairs.values.abs().argsort(descending=True)[:10])
        for _ in range(count - 10):
            process.step()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_most_steps_read_no_more_than_two_vectors_of_the_basis(dtype, monkeypatch):
    read = []
    project = Basis.project
    monkeypatch.setattr(Basis, "project", lambda self, rows: read.append(len(self)) or project(self, rows))
    steps_of(matrix("without-gaps", dtype), 40, root(dtype))
    assert sum(read) < 0.25 * sum(range(40))


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_top_eigenvalues_of_float32_with_and_without(which, name):
    """Vectors are asked for to have all steps reorthogonalised."""
    h = matrix(name, torch.float32)
    partial, full = (top_eigenvalues(h, 5, which=which, tol=1e-3, vectors=full) for full in (False, True))
    assert torch.equal(partial.converged, full.converged)
    scale = SPECTRA[name].abs().max().item()
    both = partial.converged  # in "geometric" the smallest are below rounding
    torch.testing.assert_close(partial.values[both], full.values[both], rtol=0, atol=1e-5 * scale)
    exact = torch.linalg.eigvalsh(h.double())
    distance = (exact[:, None] - partial.values).abs().min(dim=0).values
    assert (distance <= partial.bounds).all()


def test_quadratures_are_those_of_full_reorthogonalisation():
    h = matrix("outliers", torch.float32)
    single, double = (spectral_density(h.to(dtype), probes=1, steps=40) for dtype in DTYPES)
    for power in (1, 2, 4):
        (mean, _), (expected, _) = (density.mean(lambda x, p=power: x**p) for density in (single, double))
        assert mean == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("symmetric", [0, 3, 12])
def test_an_operator_that_stops_being_symmetric_is_found_out(symmetric):
    h = matrix("without-gaps", torch.float32)
    noise = 0.02 * torch.randn(h.shape, generator=torch.Generator().manual_seed(2))

    class Crooked:
        shape, dtype, device = h.shape, h.dtype, h.device
        products = 0

        def __matmul__(self, vector):
            self.products += 1
            return h @ vector if self.products <= symmetric else h @ vector + noise @ vector

    process = steps_of(Crooked(), 40, root(torch.float32))
    q = process.basis.vectors().double()
    overlaps = (q.t() @ q - torch.eye(40, dtype=torch.float64)).abs()
    assert overlaps.max() <= 1e-2
    assert process.ritz().residuals.min() > 1e-2


def test_weak_links_do_not_magnify_what_vectors_have_in_common():
    """Of 2^-i the links fall to 1e-13: what one pass over vectors that overlap leaves would grow at every step."""
    h = torch.diag(2.0 ** -torch.arange(300, dtype=torch.float64))
    process = LanczosProcess(h, 2, overlap=2**-26)
    for _ in range(46):
        process.step()
    vectors = process.basis.vectors()
    assert (vectors.t() @ vectors - torch.eye(46, dtype=torch.float64)).abs().max() < 2**-26
    assert (process.ritz().values > 0.4).sum() == 2
    assert top_eigenvalues(h, 5, which="SA", seed=2).values.abs().max() < 1e-10
