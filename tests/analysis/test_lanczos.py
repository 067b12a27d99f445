"""The Lanczos relation and the eigenvalues it finds, on matrices with prescribed spectra."""

import dataclasses

import numpy as np
import pytest
import torch

from alternet.analysis.solvers.krylov import LanczosProcess
from alternet.analysis.solvers.lanczos import top_eigenvalues

BULK = torch.linspace(-0.5, 0.5, 190, dtype=torch.float64)
EPS = {torch.float32: 1e-6, torch.float64: 1e-13}  # a dense product's rounding, and that of some tens of steps
DTYPES = sorted(EPS, key=str)


def spectrum(*head, bulk=BULK):
    return torch.cat([torch.tensor(head, dtype=torch.float64), bulk.double()])


SPECTRA = {
    "positive": spectrum(300.0, 120, 80, 75, 60, 20),
    "negative-dominated": spectrum(-31.0, -29, -27, 20, 18, 5),
    "indefinite": spectrum(36.0, -34.5, 33, -31, 30, 12),
    "clustered": spectrum(10.0, 9.99, 9.98, 9.97, 9.96, 5),
    "without-gaps": torch.linspace(-5, 5.1, 150, dtype=torch.float64),
    "geometric": 10.0 ** -torch.arange(0, 8, 0.05, dtype=torch.float64),
    "rank-one": spectrum(7.0, bulk=torch.zeros(99)),
    "rank-three": spectrum(7.0, -2, 1e-3, bulk=torch.zeros(97)),
    "zero": torch.zeros(50),
    "identity": torch.ones(40),
    "five-fold": spectrum(*[3.0] * 5, bulk=torch.ones(95)),
    "seven-fold": spectrum(*[3.0] * 7, bulk=torch.ones(93)),
    "plus-and-minus-fold": spectrum(-4.0, -4, 4, 2, 2, 2, bulk=torch.full((64,), -1.0)),
    "tiny": torch.tensor([1.0, -2, 3, 0, 0.5]),
}


def matrix(values, dtype=torch.float64, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    n = len(values)
    draw = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    vectors = torch.linalg.qr(draw).Q
    product = vectors * values.double() @ vectors.t()
    return ((product + product.t()) / 2).to(dtype)


def by_magnitude(values):
    return values[values.abs().argsort(descending=True, stable=True)]


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_lanczos_relation(name, dtype, block_size):
    """H Q = Q T + Rᵀ E with orthonormal Q and R: also behind the end of a chain, and behind a restart."""
    h = matrix(SPECTRA[name], dtype)
    scale = max(SPECTRA[name].abs().max().item(), 1e-30)
    process = LanczosProcess(h, 1, block_size)
    grow(process, min(len(h), 24))
    assert_relation(process, h, scale)
    pairs = process.ritz()
    process.restart(pairs, torch.arange(len(pairs.values))[::2])
    assert_relation(process, h, scale)
    grow(process, min(len(h), 24))
    assert_relation(process, h, scale)


def grow(process, least):
    while len(process.basis) < least:
        process.step()


def assert_relation(process, h, scale):
    q, t, r = process.basis.vectors().double(), process.projection, process.block.double().t()
    everything = torch.cat([q, r], dim=1)
    eye = torch.eye(everything.shape[1], dtype=torch.float64)
    torch.testing.assert_close(everything.t() @ everything, eye, rtol=0, atol=3 * EPS[h.dtype])
    rest = h.double() @ q - q @ t - r @ process.coupling
    breakdown = 100 * torch.finfo(h.dtype).eps  # what the end of a chain may leave out
    assert rest.norm() <= (5 * EPS[h.dtype] + breakdown) * scale
    assert torch.equal(t, t.t())


def test_without_restart_the_projection_is_tridiagonal():
    process = LanczosProcess(matrix(SPECTRA["indefinite"]), 1)
    grow(process, 24)
    assert torch.equal(process.projection, process.projection.triu(-1).tril(1))
    assert process.products == 24


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalues_with_their_multiplicities(name, dtype):
    found = top_eigenvalues(matrix(SPECTRA[name], dtype), 5, tol=1e-4, vectors=True)
    assert_right(found, matrix(SPECTRA[name], dtype), "LM", 2e-6)


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("name", ["indefinite", "five-fold", "plus-and-minus-fold", "rank-three", "zero", "tiny"])
def test_every_end_with_blocks_and_restarts(name, which, block_size):
    h = matrix(SPECTRA[name])
    found = top_eigenvalues(h, 5, which=which, tol=1e-3, block_size=block_size, max_basis=16, vectors=True)
    assert_right(found, h, which, 1e-3)


def assert_right(found, h, which, error):
    """The values to ``error`` of the largest, and vectors and bounds of which every claim holds."""
    exact = torch.linalg.eigvalsh(h.double())
    scale, rounding = exact.abs().max().item(), 5 * EPS[h.dtype]
    expected = ends(exact, which, len(found.values))
    assert found.converged.all()
    assert found.values.dtype == found.residuals.dtype == torch.float64
    same = torch.abs if which == "LM" else torch.clone  # rounding decides which of +4 and -4 comes first
    torch.testing.assert_close(same(found.values), same(expected), rtol=0, atol=error * scale + 1e-30)
    vectors = found.vectors.double()
    eye = torch.eye(len(found.values), dtype=torch.float64)
    torch.testing.assert_close(vectors.t() @ vectors, eye, rtol=0, atol=rounding)
    residuals = (h.double() @ vectors - vectors * found.values).norm(dim=0)
    assert (residuals <= found.residuals + rounding * scale).all()
    assert (found.residuals <= found.bounds).all()
    assert ((exact[:, None] - found.values).abs().min(dim=0).values <= found.bounds + 1e-14 * scale).all()


def ends(values, which, k):
    """What ``which`` means, on all of the eigenvalues."""
    falling = values.sort(descending=True).values
    return {
        "LM": by_magnitude(values)[:k],
        "LA": falling[:k],
        "SA": falling.flip(0)[:k],
        "BE": torch.cat([falling[: k - k // 2], falling[len(falling) - k // 2 :]]),
    }[which]


def test_restarts_cost_products_and_bound_memory():
    h = matrix(SPECTRA["without-gaps"])
    unbounded = top_eigenvalues(h, 3, tol=1e-6, max_basis=150)
    bounded = top_eigenvalues(h, 3, tol=1e-6, max_basis=12, max_products=1000)
    assert bounded.converged.all()
    assert unbounded.products < bounded.products
    torch.testing.assert_close(bounded.values, unbounded.values, rtol=1e-9, atol=0)


def test_a_block_sees_copies_that_one_vector_cannot():
    """Three copies of 9 above a spectrum without end for a single vector."""
    values = spectrum(9.0, 9, 9, 7, 6, bulk=torch.linspace(-5, 5, 300))
    h = matrix(values)
    single, block = (top_eigenvalues(h, 3, tol=1e-3, block_size=size) for size in (1, 3))
    torch.testing.assert_close(single.values, values[2:5], rtol=1e-5, atol=0)
    torch.testing.assert_close(block.values, values[:3], rtol=1e-5, atol=0)


def test_blocks_are_multiplied_at_once():
    h, widths = matrix(SPECTRA["indefinite"]), []

    class Columns:
        shape, dtype, device = h.shape, h.dtype, h.device

        def matmat(self, vectors):
            widths.append(vectors.shape[1])
            return h @ vectors

    found = top_eigenvalues(Columns(), 5, block_size=4)
    assert set(widths) == {4}
    assert found.products == sum(widths)


def test_the_bound_is_the_residual_and_not_more():
    h = matrix(SPECTRA["without-gaps"])
    found = top_eigenvalues(h, 5, tol=1e-3, vectors=True)
    residuals = (h @ found.vectors - found.vectors * found.values).norm(dim=0)
    torch.testing.assert_close(residuals, found.residuals, rtol=1e-6, atol=1e-9)


def test_an_unsymmetric_operator_shows_in_the_residuals():
    h = matrix(SPECTRA["positive"])
    crooked = h + 3 * torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(3))
    found = top_eigenvalues(crooked, 5, max_products=60)
    assert not found.converged.any()
    assert found.residuals.min() > 1


def test_eigenvalues_closer_than_the_tolerance_need_a_smaller_one():
    """Residuals of 1e-2 cannot tell 10 from 9.9999, those of 1e-7 can."""
    values = spectrum(10.0, 9.9999, 7, 5, 3)
    h = matrix(values)
    found = top_eigenvalues(h, 3, tol=1e-8)
    torch.testing.assert_close(found.values, values[:3], rtol=1e-9, atol=0)
    assert top_eigenvalues(h, 3, tol=1e-3).products < found.products


def test_it_stops_when_the_tolerance_is_met_twice_and_not_before():
    h = matrix(SPECTRA["indefinite"])
    found = top_eigenvalues(h, 5, tol=1e-3)
    assert found.residuals.max() <= 1e-3 * found.values[0].abs()
    shorter = top_eigenvalues(h, 5, tol=1e-3, max_products=found.products - 2)
    assert shorter.products == found.products - 2
    assert not shorter.converged.all()
    assert torch.equal(shorter.converged, shorter.residuals <= 1e-3 * shorter.values[0].abs())


def test_an_eigenvalue_that_comes_late_is_not_missed():
    """From this start 75, 60 and 20 converge before 80 shows."""
    draw = torch.randn(196, 196, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = torch.linalg.qr(draw).Q
    found = top_eigenvalues(vectors * SPECTRA["positive"] @ vectors.t(), 5, tol=1e-3)
    torch.testing.assert_close(found.values, SPECTRA["positive"][:5], rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", [4, 2162])
def test_an_isolated_eigenvalue_that_a_start_hardly_holds(seed):
    """Nine of them before a bulk; of 2162's fifth the start vector holds a thousandth of its share."""
    draw = np.random.default_rng(seed)
    parts = 100 * draw.uniform(0.2, 1, 9), -20 * draw.uniform(0, 1, 5), draw.normal(0, 0.3, 300)
    values = torch.from_numpy(np.concatenate(parts))
    found = top_eigenvalues(torch.diag(values), 5, seed=seed)
    torch.testing.assert_close(found.values, by_magnitude(values)[:5], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_of_nothing_but_zeros(k, dtype):
    found = top_eigenvalues(torch.zeros(20, 20, dtype=dtype), k)
    assert found.products <= k + 1
    assert torch.equal(found.values, torch.zeros(k, dtype=torch.float64))
    assert found.converged.all()


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_does_not_pass_for_a_chain_that_goes_on(seed, block_size):
    """A space has ended where less is left than the search asks for: rounding alone may link what comes next."""
    values = spectrum(20.0, 20, 20, 20, 20, 1, 1, 1, bulk=torch.full((92,), 300.0))
    h = matrix(values, seed=seed)
    for which in ("LM", "SA"):
        found = top_eigenvalues(h, 5, which=which, block_size=block_size, seed=seed)
        assert found.converged.all()
        torch.testing.assert_close(found.values, ends(values, which, 5), rtol=1e-6, atol=0)


def test_exact_values_are_not_the_largest_while_copies_may_be_missing():
    """Four chains of two steps each have found 3, 3, 3, 3 and 1; the fifth 3 is still to come."""
    found = top_eigenvalues(matrix(SPECTRA["five-fold"]), 5, max_products=8)
    assert found.residuals.max() < 1e-10
    assert not found.converged.any()


def test_the_seed_decides():
    h = matrix(SPECTRA["without-gaps"], torch.float32)
    first, again, other = (top_eigenvalues(h, 5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.residuals, again.residuals)
    assert not torch.equal(first.values, other.values)
    torch.testing.assert_close(first.values, other.values, rtol=1e-4, atol=0)


@pytest.mark.parametrize("k", [1, 4, 5])
def test_k_up_to_the_whole_spectrum(k):
    h = matrix(SPECTRA["tiny"])
    exact = by_magnitude(SPECTRA["tiny"].double())[:k]
    torch.testing.assert_close(top_eigenvalues(h, k, tol=1e-8).values, exact, rtol=0, atol=1e-12)


def test_concentrated_float32_vectors_of_a_million_entries():
    """Eigenvectors on 50 neighbouring entries, where float32 norms and dots of PyTorch go wrong."""
    n, width = 1_000_000, 50
    vectors = torch.zeros(n, 3, dtype=torch.float64)
    vectors[1000 : 1000 + width] = torch.linalg.qr(torch.randn(width, 3, dtype=torch.float64)).Q
    values = torch.tensor([40.0, -30, 20], dtype=torch.float64)

    class LowRank:
        shape, dtype, device = (n, n), torch.float32, torch.device("cpu")

        def __matmul__(self, vector):
            inner = vectors.t() @ vector.double()
            return (vectors @ (values * inner) + 1e-3 * vector.double()).float()

    found = top_eigenvalues(LowRank(), 3, tol=1e-5)
    torch.testing.assert_close(found.values, values + 1e-3, rtol=1e-6, atol=0)


def test_products_are_reported():
    calls = []
    found = top_eigenvalues(matrix(SPECTRA["indefinite"]), 5, block_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 190 + 6) for done in range(0, found.products + 1, 2)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_product_that_is_not_finite_is_named(bad):
    class Breaks:
        shape, dtype, device = (30, 30), torch.float64, torch.device("cpu")
        calls = 0

        def __matmul__(self, vector):
            self.calls += 1
            image = torch.linspace(1, 2, 30, dtype=torch.float64) * vector
            image[7] = bad if self.calls == 4 else image[7]
            return image

    with pytest.raises(FloatingPointError, match="product 4 "):
        top_eigenvalues(Breaks(), 5)


@pytest.mark.parametrize(
    ("op", "arguments", "error", "message"),
    [
        (torch.eye(4), {"k": 5}, ValueError, "k: expected 1 to 4"),
        (torch.eye(4), {"k": 0}, ValueError, "k: expected 1 to 4"),
        (torch.zeros(0, 0), {"k": 1}, ValueError, "k: expected 1 to 0"),
        (torch.ones(4, 3), {}, ValueError, "op: expected a square operator"),
        (torch.eye(9).half(), {}, TypeError, "op: expected float32 or float64"),
        (np.eye(9), {}, TypeError, "op: expected a tensor, or an operator with a torch dtype, got ndarray"),
        (torch.eye(9), {"tol": 0.0}, ValueError, "tol"),
        (torch.eye(9), {"tol": float("nan")}, ValueError, "tol"),
        (torch.eye(9), {"max_products": 4}, ValueError, "max_products: expected at least k = 5"),
        (torch.eye(9), {"max_basis": 6}, ValueError, "max_basis: expected at least 7, k and two blocks, got 6"),
        (torch.eye(9), {"block_size": 10}, ValueError, "block_size: expected 1 to 9"),
        (torch.eye(9), {"which": "SM"}, ValueError, "which: expected one of .*, got 'SM'"),
    ],
)
def test_bad_arguments(op, arguments, error, message):
    with pytest.raises(error, match=message):
        top_eigenvalues(op, **arguments)


def test_a_matrix_that_requires_a_gradient():
    h = matrix(SPECTRA["indefinite"])
    for block_size in (1, 2):
        expected = top_eigenvalues(h, 3, block_size=block_size)
        found = top_eigenvalues(h.clone().requires_grad_(), 3, block_size=block_size, vectors=True)
        torch.testing.assert_close(found.values, expected.values)
        assert not found.vectors.requires_grad


def test_results_do_not_change():
    found = top_eigenvalues(torch.eye(9), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.products = 3
    assert found.vectors is None
