"""The check that finds operators that are not fixed, symmetric matrices."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.curvature.symmetry import AsymmetryError, check_symmetry

from .small_networks import MODELS, batch, build, inputs


class Dense:
    def __init__(self, matrix, noise=0.0):
        self.matrix, self.noise = matrix, noise
        self.shape, self.dtype, self.device = tuple(matrix.shape), matrix.dtype, matrix.device

    def __matmul__(self, vector):
        return self.matrix @ vector + self.noise * torch.randn_like(vector)


def symmetric(n=50):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return matrix + matrix.T


def test_figures_are_of_the_size_of_what_is_wrong():
    matrix = symmetric()
    found = check_symmetry(Dense(matrix), tolerance=1e-12)
    assert found.change == 0
    skew = torch.triu(torch.ones_like(matrix), 1)
    skew = 1e-3 * matrix.norm() * (skew - skew.T) / skew.norm()
    with pytest.raises(AsymmetryError, match=r"u·Hv and v·Hu differ by .*e-0[34].*not the second derivatives"):
        check_symmetry(Dense(matrix + skew), tolerance=1e-6)
    with pytest.raises(AsymmetryError, match=r"differ by .*changes from product to product"):
        check_symmetry(Dense(matrix, noise=1e-3), tolerance=1e-6)
    with pytest.raises(AsymmetryError, match="nan"):
        check_symmetry(Dense(matrix * torch.nan), tolerance=1e-6)
    assert check_symmetry(Dense(0 * matrix), tolerance=1e-12).asymmetry == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("engine", ["graph", "jvp"])
@pytest.mark.parametrize("name", MODELS)
def test_hessians_pass(name, engine, dtype):
    HessianOperator(build(name, dtype), F.cross_entropy, inputs(name), engine=engine).check()


class Stateful(nn.Module):
    """Fades from call to call, by an attribute that is no buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x.flatten(1)) / self.calls


class Drawing(nn.Module):
    """Drops out, by numbers from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 3)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.layer(x.flatten(1) * torch.rand(x.flatten(1).shape, generator=self.generator).round())


class OneSidedProduct(torch.autograd.Function):
    """a · b with a derivative in a alone."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], torch.zeros_like(g)


class OneSided(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 3), nn.Linear(48, 3)

    def forward(self, x):
        return OneSidedProduct.apply(self.first(x.flatten(1)), self.second(x.flatten(1)))


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        (Stateful, "jvp", "two products with one vector .* from product to product"),
        (Stateful, "graph", "two passes over the same images .* from pass to pass"),
        (Drawing, "graph", "from pass to pass"),
        (OneSided, "graph", r"autograd\.Function"),
    ],
)
def test_networks_without_a_hessian_fail(model, engine, message):
    images, targets = batch()
    op = HessianOperator(model().double(), F.cross_entropy, (images[:, :, :4, :4], targets), engine=engine)
    with pytest.raises(AsymmetryError, match=message):
        op.check()
