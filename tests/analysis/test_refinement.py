"""Eigenvalues drafted by a cheaper operator: every number is of the operator itself."""

import pytest
import torch

from alternet.analysis.solvers.lanczos import top_eigenvalues


def symmetric(values, dtype=torch.float32):
    n = len(values)
    draw = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = torch.linalg.qr(draw).Q
    product = vectors * values.double() @ vectors.t()
    return ((product + product.t()) / 2).to(dtype)


def spectrum(*head, bulk=190):
    return torch.cat([torch.tensor(head), torch.linspace(-0.5, 0.5, bulk)])


class Rounded:
    """Products as bfloat16 makes them: matrix, vectors and results are rounded, so that it is no symmetric matrix."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix.bfloat16().to(matrix.dtype), 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, vector):
        self.products += 1
        return (self.matrix @ vector.bfloat16().to(self.dtype)).bfloat16().to(self.dtype)


class Counted(Rounded):
    def __init__(self, matrix):
        super().__init__(matrix)
        self.matrix = matrix

    def __matmul__(self, vector):
        self.products += 1
        return self.matrix @ vector


SPECTRA = {
    "positive": spectrum(300.0, 120, 80, 75, 60, 20),
    "indefinite": spectrum(36.0, -34.5, 33, -31, 30, 12),
    "without-gaps": torch.linspace(-5, 5.1, 150),
    "decaying": 10.0 ** -torch.arange(0, 8, 0.05),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_values_residuals_and_vectors_are_of_the_operator(name, dtype):
    matrix = symmetric(SPECTRA[name], dtype)
    op, draft = Counted(matrix), Rounded(matrix)
    found = top_eigenvalues(op, 5, draft=draft, tol=1e-3, vectors=True)
    exact = torch.linalg.eigvalsh(matrix.double())
    scale, rounding = exact.abs().max(), 10 * torch.finfo(dtype).eps
    expected = exact[exact.abs().argsort(descending=True)][:5]
    assert found.converged.all()
    torch.testing.assert_close(found.values.abs(), expected.abs(), rtol=0, atol=2e-5 * scale.item())
    vectors = found.vectors.double()
    torch.testing.assert_close(vectors.t() @ vectors, torch.eye(5, dtype=torch.float64), rtol=0, atol=rounding)
    residuals = (matrix.double() @ vectors - vectors * found.values).norm(dim=0)
    torch.testing.assert_close(residuals, found.residuals, rtol=0, atol=float(rounding * scale))
    distance = (exact[:, None] - found.values).abs().min(dim=0).values
    assert (distance <= found.gap_bounds).all()
    assert (found.gap_bounds <= found.bounds).all()
    assert (found.products, found.draft_products) == (op.products, draft.products)


@pytest.mark.parametrize("name", ["without-gaps", "decaying"])
def test_a_draft_saves_products(name):
    matrix = symmetric(SPECTRA[name])
    alone = top_eigenvalues(matrix, 5, tol=1e-4)
    found = top_eigenvalues(matrix, 5, tol=1e-4, draft=matrix.bfloat16().float())
    assert found.converged.all()
    assert found.products < alone.products


def test_a_draft_that_is_the_operator_leaves_one_product_a_value():
    matrix = symmetric(SPECTRA["positive"])
    found = top_eigenvalues(matrix, 5, draft=matrix)
    assert found.products == 5
    torch.testing.assert_close(found.values, top_eigenvalues(matrix, 5).values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("which", ["LA", "SA", "BE"])
def test_other_ends(which):
    matrix = symmetric(spectrum(36.0, -34.5, 33, -31, 30, -29, 28, -12))
    expected = {"LA": [36.0, 33, 30], "SA": [-34.5, -31, -29], "BE": [36.0, 33, -34.5]}[which]
    found = top_eigenvalues(matrix, 3, which=which, draft=Rounded(matrix))
    assert found.converged.all()
    torch.testing.assert_close(found.values.float(), torch.tensor(expected), rtol=1e-4, atol=0)


def test_the_order_of_the_draft_does_not_decide():
    """The draft holds the third for the second: what lies within its error of the wanted is tried too."""
    values = spectrum(10.0, 8.0, 7.9)
    wrong = values.clone()
    wrong[1], wrong[2] = 7.87, 7.94
    found = top_eigenvalues(symmetric(values, torch.float64), 2, draft=symmetric(wrong, torch.float64), tol=1e-4)
    torch.testing.assert_close(found.values, values[:2].double(), rtol=1e-6, atol=0)


def test_many_corrections_in_little_room():
    """A draft of another matrix is a bad one: the space is cut down again and again, and still gets there."""
    matrix = symmetric(SPECTRA["positive"], torch.float64)
    noise = torch.randn(matrix.shape, dtype=matrix.dtype, generator=torch.Generator().manual_seed(2))
    found = top_eigenvalues(matrix, 3, draft=matrix + 0.3 * (noise + noise.t()), tol=1e-7, max_basis=8)
    assert found.converged.all()
    assert found.products > 9  # three times k, the room
    torch.testing.assert_close(found.values, SPECTRA["positive"][:3].double(), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 3), (4, 2)])
def test_small_operators(n, k):
    matrix = symmetric(torch.arange(1.0, n + 1), torch.float64)
    found = top_eigenvalues(matrix, k, draft=Rounded(matrix), tol=1e-8)
    assert found.converged.all()
    torch.testing.assert_close(found.values, torch.arange(n, n - k, -1.0, dtype=torch.float64), rtol=1e-8, atol=0)


def test_limits_hold():
    matrix = symmetric(SPECTRA["without-gaps"])
    found = top_eigenvalues(matrix, 5, draft=Rounded(matrix), tol=1e-6, max_products=20)
    assert not found.converged.all()
    assert 20 <= found.products < 25


@pytest.mark.parametrize("draft", [torch.eye(8), torch.eye(9).double()])
def test_a_draft_of_another_kind(draft):
    with pytest.raises(ValueError, match=r"draft: expected an operator like op, \[9, 9\] with torch.float32"):
        top_eigenvalues(torch.eye(9), 2, draft=draft)


def test_a_product_that_is_not_finite():
    matrix = symmetric(SPECTRA["positive"])
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        top_eigenvalues(matrix * torch.nan, 2, draft=matrix)
