"""Inner products and bases against float64, on vectors whose entries are as concentrated as a Hessian's."""

import pytest
import torch

from alternet.analysis.solvers.vectors import Basis, VectorSpace, space_of

N = 300_000  # several blocks, and not a multiple of one


def concentrated(count=1, seed=0):
    """[count, N] float32 with most of the weight in a few neighbouring entries."""
    vectors = torch.randn(count, N, generator=torch.Generator().manual_seed(seed))
    vectors[:, 1000:1200] *= 300
    return vectors


def unit(vectors):
    return vectors / vectors.double().norm(dim=-1, keepdim=True).float()


def whole(n=N, dtype=torch.float32):
    return VectorSpace(n, dtype, torch.device("cpu"))


class Half(VectorSpace):
    """One of two processes that share a space; ``peer`` is what the other one adds to each sum, in order."""

    def __init__(self, n, rank, peer=()):
        middle = n // 2 + 7
        super().__init__(n, torch.float32, torch.device("cpu"), (slice(0, middle), slice(middle, n))[rank])
        self.partial, self.peer = [], iter(peer)

    def total(self, partial):
        self.partial.append(partial.clone())
        return partial.add_(next(self.peer, 0.0))


def orthonormal_basis(count, dtype=torch.float32):
    space = whole(dtype=dtype)
    basis = space.basis()
    for vector in unit(concentrated(count, seed=1)).to(dtype):
        for _ in range(2):
            basis.orthogonalize(vector)
        basis.append(vector / space.norm(vector).to(dtype))
    return basis


@pytest.mark.parametrize("n", [1, 5, 16_384, N])
def test_inner_products_are_those_of_float64(n):
    x, y = concentrated(2)[:, :n]
    expected = x.double() @ y.double()
    space = whole(n)
    assert space.dot(x, y).dtype == torch.float64
    scale = (x.double().norm() * y.double().norm()).item()
    assert abs(space.dot(x, y) - expected) <= 1e-13 * scale
    torch.testing.assert_close(space.norm(x), x.double().norm(), rtol=1e-13, atol=0)


def test_many_inner_products_at_once():
    x, y = unit(concentrated(4)), unit(concentrated(3, seed=1))
    torch.testing.assert_close(whole().products(x, y), x.double() @ y.double().t(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [5_000, 2_500_000])
def test_draws_are_the_same_however_they_are_spread(n):
    for kind in ("normal", "signs"):
        everything = getattr(whole(n), kind)(torch.Generator().manual_seed(3))
        parts = [getattr(Half(n, rank), kind)(torch.Generator().manual_seed(3)) for rank in (0, 1)]
        assert torch.equal(torch.cat(parts), everything)
        double = getattr(whole(n, torch.float64), kind)(torch.Generator().manual_seed(3))
        assert torch.equal(double.float(), everything)
        assert abs(everything.mean()) < 0.05
        assert everything.std() == pytest.approx(1, abs=0.05)


def test_two_halves_make_the_whole():
    """Each half adds up its own entries; with the other's sums they give what one process gives."""
    basis, (vector,) = orthonormal_basis(Basis.ROWS + 3), unit(concentrated(seed=2))
    first = Half(N, 0)
    orthogonalize_part(first, basis, vector)
    second = Half(N, 1, peer=first.partial)
    coefficients = orthogonalize_part(second, basis, vector)
    torch.testing.assert_close(coefficients, basis.orthogonalize(vector.clone()), rtol=0, atol=1e-6)
    assert len(second.partial) == 1  # one reduction for the whole basis


def orthogonalize_part(space, basis, vector):
    part = space.basis()
    for i in range(len(basis)):
        part.append(basis[i][space.here])
    return part.orthogonalize(vector[space.here].clone())


def test_an_operator_brings_its_space():
    op = torch.eye(7)
    assert (space_of(op).n, space_of(op).length, space_of(op).dtype) == (7, 7, torch.float32)

    class Spread:
        space = Half(7, 1)

    assert space_of(Spread()) is Spread.space


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


def test_rows_are_orthogonalized_together():
    basis, rows = orthonormal_basis(Basis.ROWS + 3), unit(concentrated(3, seed=2))
    together = rows.clone()
    coefficients = basis.orthogonalize(together)
    for i, row in enumerate(rows):
        torch.testing.assert_close(coefficients[:, i], basis.orthogonalize(row), rtol=0, atol=1e-6)
        torch.testing.assert_close(together[i], row, rtol=0, atol=1e-6)


def test_what_is_almost_in_the_span_comes_out_orthogonal_in_the_second_pass():
    """One pass leaves the 4e-7 of a block's sum times the cancellation, which is √5 over 1e-4."""
    basis = orthonormal_basis(5)
    rest = unit(concentrated(seed=3))[0]
    vector = basis.combine(torch.ones(5, 1, dtype=torch.float64))[:, 0] + 1e-4 * rest
    for tolerance in (3e-2, 1e-6):
        basis.orthogonalize(vector)
        overlap = basis.vectors().double().t() @ vector.double()
        assert overlap.abs().max() <= tolerance * whole().norm(vector)


def test_combinations_are_columns():
    basis = orthonormal_basis(Basis.ROWS + 3)
    coefficients = torch.randn(len(basis), 2, dtype=torch.float64)
    expected = basis.vectors().double() @ coefficients
    torch.testing.assert_close(basis.combine(coefficients).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, Basis.ROWS + 2])
def test_a_basis_becomes_combinations_of_itself_and_grows_again(count):
    basis = orthonormal_basis(Basis.ROWS + 3)
    draw = torch.randn(len(basis), count, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    coefficients = torch.linalg.qr(draw).Q
    expected = basis.vectors().double() @ coefficients
    basis.compress(coefficients)
    assert len(basis) == count
    torch.testing.assert_close(basis.vectors().double(), expected, rtol=0, atol=1e-7)
    rows = unit(concentrated(Basis.ROWS, seed=7))
    basis.append(rows)
    assert torch.equal(basis.vectors()[:, count:], rows.t())
    torch.testing.assert_close(basis.vectors()[:, :count].double(), expected, rtol=0, atol=1e-7)
