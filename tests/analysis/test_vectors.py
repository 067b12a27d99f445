"""Inner products and bases against float64, on vectors whose entries are as concentrated as a Hessian's."""

import pytest
import torch

from alternet.analysis.vectors import Basis, dot, norm

N = 300_000  # several blocks, and not a multiple of one


def concentrated(count=1, seed=0):
    """[count, N] float32 with most of the weight in a few neighbouring entries."""
    vectors = torch.randn(count, N, generator=torch.Generator().manual_seed(seed))
    vectors[:, 1000:1200] *= 300
    return vectors


def unit(vectors):
    return vectors / vectors.double().norm(dim=-1, keepdim=True).float()


def orthonormal_basis(count, n=N, dtype=torch.float32):
    basis = Basis(n, dtype, torch.device("cpu"))
    for vector in unit(concentrated(count, seed=1))[:, :n].to(dtype):
        for _ in range(2):
            basis.orthogonalize(vector)
        basis.append(vector / norm(vector).to(dtype))
    return basis


@pytest.mark.parametrize("n", [1, 5, 16_384, N])
def test_inner_products_are_those_of_float64(n):
    x, y = concentrated(2)[:, :n]
    expected = x.double() @ y.double()
    assert dot(x, y).dtype == torch.float64
    scale = (x.double().norm() * y.double().norm()).item()
    assert abs(dot(x, y) - expected) <= 1e-13 * scale
    torch.testing.assert_close(norm(x), x.double().norm(), rtol=1e-13, atol=0)


def test_a_basis_longer_than_one_chunk_stays_orthonormal_to_float32_rounding():
    vectors = orthonormal_basis(Basis.ROWS + 3).vectors().double()
    assert vectors.shape == (N, Basis.ROWS + 3)
    gram = vectors.t() @ vectors
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_orthogonalizing_takes_out_the_projection(dtype, tolerance):
    basis = orthonormal_basis(Basis.ROWS + 3, dtype=dtype)
    vectors = basis.vectors().double()
    original = unit(concentrated(seed=2))[0].to(dtype)
    vector = original.clone()
    coefficients = basis.orthogonalize(vector)
    assert coefficients.dtype == torch.float64
    assert (vectors.t() @ vector.double()).abs().max() <= tolerance
    assert (coefficients - vectors.t() @ original.double()).abs().max() <= 2 * tolerance
    torch.testing.assert_close(vectors @ coefficients + vector.double(), original.double(), rtol=0, atol=tolerance)


def test_what_is_almost_in_the_span_comes_out_orthogonal_in_the_second_pass():
    """One pass leaves the 4e-7 of a block's sum times the cancellation, which is √5 over 1e-4."""
    basis = orthonormal_basis(5)
    rest = unit(concentrated(seed=3))[0]
    vector = basis.combine(torch.ones(5, 1, dtype=torch.float64))[:, 0] + 1e-4 * rest
    for tolerance in (3e-2, 1e-6):
        basis.orthogonalize(vector)
        overlap = basis.vectors().double().t() @ vector.double()
        assert overlap.abs().max() <= tolerance * norm(vector)


def test_combinations_are_columns():
    basis = orthonormal_basis(Basis.ROWS + 3)
    coefficients = torch.randn(len(basis), 2, dtype=torch.float64)
    expected = basis.vectors().double() @ coefficients
    torch.testing.assert_close(basis.combine(coefficients).double(), expected, rtol=0, atol=1e-5)
