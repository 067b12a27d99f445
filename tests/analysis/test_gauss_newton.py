"""The Gauss-Newton matrix against a dense Jacobian, and both operators over several batches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.hessian import HessianOperator


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def images(count: int = 7):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64), torch.arange(count) % 3


def dense_gauss_newton(model, x, targets, loss=F.cross_entropy):
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(parameters)
    flat = torch.cat([part.flatten(2) for part in jacobian.values()], dim=2).flatten(0, 1)  # [outputs, n]
    outputs = model(x).detach()
    inner = hessian(lambda z: loss(z, targets))(outputs).reshape(outputs.numel(), -1)
    return flat.T @ inner @ flat


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_products_are_those_of_the_dense_matrix(dtype, tolerance):
    model, data = network(dtype), images()
    op = GaussNewtonOperator(model, F.cross_entropy, data, weight_decay=0.1)
    want = dense_gauss_newton(network(), *data) + 0.1 * torch.eye(op.shape[0], dtype=torch.float64)
    eye = torch.eye(op.shape[0], dtype=dtype)
    assert relative_error(op.matmat(eye), want) <= tolerance
    assert relative_error(op @ eye[3], want[3]) <= tolerance
    assert torch.linalg.eigvalsh(want).min() >= 0.1 - 1e-12


def squared_errors(output, targets):
    return (output - targets).square().mean()


def logistic(output, targets):
    return torch.log1p(torch.exp(-output * targets)).mean()


def huber(output, targets):
    errors = (output - targets).abs()
    return torch.where(errors <= 1, errors.square() / 2, errors - 0.5).mean()


@pytest.mark.parametrize(
    ("loss", "composed"),
    [(F.mse_loss, squared_errors), (F.soft_margin_loss, logistic), (F.huber_loss, huber)],
    ids=["squares", "logistic", "huber"],
)
@pytest.mark.parametrize("engine", ["graph", "jvp"])
def test_losses_without_forward_derivatives_in_pytorch(engine, loss, composed):
    model, (x, _) = network(), images()
    targets = model(x).detach() + torch.tensor([0.5, -0.5, 2.0], dtype=torch.float64)
    op = GaussNewtonOperator(model, loss, (x, targets), engine=engine)
    want = dense_gauss_newton(model, x, targets, composed)
    eye = torch.eye(op.shape[0], dtype=torch.float64)
    assert relative_error(op.matmat(eye), want) <= 1e-12
    assert relative_error(op @ eye[3], want[3]) <= 1e-12


def test_a_linear_networks_hessian_is_its_gauss_newton_matrix():
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double(), images()
    vector = torch.randn(39, dtype=torch.float64)
    operators = [kind(model, F.cross_entropy, data) for kind in (GaussNewtonOperator, HessianOperator)]
    assert relative_error(operators[0] @ vector, operators[1] @ vector) <= 1e-13


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_batches_of_unequal_size_are_weighted_by_their_images(kind):
    x, targets = images(7)
    whole = kind(network(), F.cross_entropy, (x, targets), weight_decay=0.3)
    batches = list(zip(x.split([4, 1, 2]), targets.split([4, 1, 2]), strict=True))
    split = kind(network(), F.cross_entropy, batches, weight_decay=0.3)
    vectors = torch.randn(whole.shape[0], 2, dtype=torch.float64)
    assert relative_error(split.matmat(vectors), whole.matmat(vectors)) <= 1e-12
    assert relative_error(split @ vectors[:, 0], whole @ vectors[:, 0]) <= 1e-12


@pytest.mark.parametrize("engine", ["graph", "jvp"])
def test_augmented_batches_are_drawn_once(engine):
    x, targets = images()
    drawn = []

    class Augmented:
        def __iter__(self):
            for part in range(2):
                drawn.append(part)
                yield x + 0.1 * torch.randn_like(x), targets

    op = HessianOperator(network(), F.cross_entropy, Augmented(), engine=engine)
    vector = torch.randn(op.shape[0], dtype=torch.float64)
    assert torch.equal(op @ vector, op @ vector)
    assert drawn == [0, 1]


def test_augmentation_is_drawn_from_the_seed():
    x, targets = images()

    class Augmented:
        def __iter__(self):
            noise = torch.randn_like(x) + random.random() + np.random.rand()
            yield x + 0.1 * noise, targets

    def products(outside, seed):
        torch.manual_seed(outside), np.random.seed(outside), random.seed(outside)
        op = HessianOperator(network(), F.cross_entropy, Augmented(), seed=seed)
        return op @ torch.ones(op.shape[0], dtype=op.dtype)

    assert torch.equal(products(1, seed=0), products(2, seed=0))
    assert not torch.equal(products(1, seed=0), products(1, seed=1))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "data: got no batches"),
        (5, TypeError, r"data: expected \(images, targets\) or batches of them, got int"),
        ([torch.ones(2)], TypeError, r"data: expected \(images, targets\) or batches of them, got Tensor"),
        ((torch.ones(0, 3, 2, 2), torch.ones(0)), ValueError, "data: a batch has no images"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        HessianOperator(network(), F.cross_entropy, data)


def test_output_that_is_no_tensor():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 3)

        def forward(self, x):
            return self.layer(x.flatten(1)), x

    with pytest.raises(TypeError, match="model: expected one output tensor, got tuple"):
        GaussNewtonOperator(Two().double(), F.cross_entropy, images())
