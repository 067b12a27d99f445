"""The Hessian operator against dense float64 Hessians from another path."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.solvers.lanczos import top_eigenvalues

from .small_networks import MODELS, batch, build, dense_hessian, exact_hessian, inputs, relative_error

ENGINES = ["graph", "jvp"]


# float32: rounding of 0.7e-6 was seen with torch 2.14, 1.2e-6 with torch 2.10; a wrong term is a thousand times more.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_dense_hessian(name, engine, dtype, tolerance):
    op = HessianOperator(build(name, dtype), F.cross_entropy, inputs(name), engine=engine)
    exact = exact_hessian(name)
    assert op.shape == tuple(exact.shape)
    assert (op.dtype, op.device) == (dtype, torch.device("cpu"))
    vectors = torch.randn(len(exact), 3, dtype=dtype)
    expected = exact @ vectors.double()
    assert relative_error(torch.stack([op @ vector for vector in vectors.t()], dim=1), expected) <= tolerance
    assert relative_error(op.matmat(vectors), expected) <= tolerance


@pytest.mark.parametrize(
    ("dtype", "tol", "error"), [(torch.float32, 1e-4, 1e-6), (torch.float64, 1e-7, 1e-10)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_top_eigenvalues_are_those_of_the_dense_hessian(name, engine, dtype, tol, error):
    op = HessianOperator(build(name, dtype), F.cross_entropy, inputs(name), engine=engine)
    exact = torch.linalg.eigvalsh(exact_hessian(name))
    exact = exact[exact.abs().argsort(descending=True)][:5]
    found = top_eigenvalues(op, 5, tol=tol)
    assert found.converged.all()
    torch.testing.assert_close(found.values, exact, rtol=0, atol=error * exact[0].abs().item())


def regression():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(4, width, generator=generator, dtype=torch.float64) for width in (3, 2))


def regressor():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("engine", ENGINES)
def test_squared_errors(engine):
    model, (x, y) = regressor(), regression()
    op = HessianOperator(model, F.mse_loss, (x, y), engine=engine)

    def loss(vector):
        return (functional_call(model, op.named(vector), (x,)) - y).square().mean()

    exact = torch.autograd.functional.hessian(loss, op.flatten(dict(model.named_parameters())).detach())
    eye = torch.eye(op.shape[0], dtype=op.dtype)
    assert relative_error(op.matmat(eye), exact) <= 1e-13
    assert relative_error(op @ eye[3], exact[3]) <= 1e-13


def test_losses_without_forward_derivatives_name_the_engine_that_serves_them():
    model, data = regressor(), regression()
    op = HessianOperator(model, F.huber_loss, data, engine="jvp")
    for vectors in (torch.ones(op.shape[0], dtype=op.dtype), torch.ones(op.shape[0], 2, dtype=op.dtype)):
        with pytest.raises(ValueError, match=r'engine="jvp" needs .*engine="graph" does without .*huber_loss'):
            op @ vectors if vectors.dim() == 1 else op.matmat(vectors)
    HessianOperator(model, F.huber_loss, data, engine="graph").check()


@pytest.mark.parametrize("engine", ENGINES)
def test_differences_of_gradients_agree(engine):
    """A check that shares nothing with second derivatives, for the network whose attention is this library's."""
    model, (images, targets) = build("alternet").eval(), batch()
    op = HessianOperator(model, F.cross_entropy, (images, targets), engine=engine)
    vector = torch.randn(op.shape[0], dtype=torch.float64)
    step = 1e-6

    def gradient(sign):
        moved = copy.deepcopy(model)
        for name, parameter in moved.named_parameters():
            parameter.data += sign * step * op.named(vector)[name]
        F.cross_entropy(moved(images), targets).backward()
        return torch.cat([parameter.grad.flatten() for parameter in moved.parameters()])

    assert relative_error(op @ vector, (gradient(+1) - gradient(-1)) / (2 * step)) <= 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_the_matrix_is_symmetric_in_float32(engine):
    op = HessianOperator(build("vit", torch.float32), F.cross_entropy, batch(), engine=engine)
    u, v = torch.randn(2, op.shape[0])
    hu, hv = (op @ u).double(), (op @ v).double()
    assert abs(u.double() @ hv - v.double() @ hu) <= 1e-6 * hu.norm() * v.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_weight_decay_shifts_by_itself(engine):
    model, decay = build("convolutional"), 0.05
    op = HessianOperator(model, F.cross_entropy, batch(), weight_decay=decay, engine=engine)
    vectors = torch.randn(op.shape[0], 2, dtype=op.dtype)
    expected = exact_hessian("convolutional") @ vectors + decay * vectors
    assert relative_error(op.matmat(vectors), expected) <= 1e-13
    assert relative_error(op @ vectors[:, 0], expected[:, 0]) <= 1e-13


def test_one_hot_soft_targets_are_integer_targets():
    soft = F.one_hot(batch()[1], 3).float()  # float32 as data loaders give them, for a float64 network
    op = HessianOperator(build("vit"), F.cross_entropy, (batch()[0].float(), soft))
    vector = torch.randn(op.shape[0], dtype=op.dtype)
    expected = HessianOperator(build("vit"), F.cross_entropy, (batch()[0].float(), batch()[1])) @ vector
    assert relative_error(op @ vector, expected) <= 1e-14


@pytest.mark.parametrize(
    ("params", "selected"),
    [
        (r"^1\.", ["1.weight", "1.bias"]),
        ("bias", ["1.bias", "4.bias"]),
        (["4.bias", "1.weight"], ["1.weight", "4.bias"]),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_selection_is_a_block_of_the_hessian(params, selected, engine):
    op = HessianOperator(build("mlp"), F.cross_entropy, inputs("mlp"), params=params, engine=engine)
    whole = HessianOperator(build("mlp"), F.cross_entropy, inputs("mlp"))
    places = whole.named(torch.arange(whole.shape[0], dtype=torch.float64))
    chosen = torch.cat([places[name].flatten() for name in selected]).long()
    eye = torch.eye(op.shape[0], dtype=op.dtype)
    assert relative_error(op.matmat(eye), exact_hessian("mlp")[chosen][:, chosen]) <= 1e-13


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_are_constants_unless_they_are_asked_for(engine):
    model = build("mlp")
    model[1].requires_grad_(False)
    op = HessianOperator(model, F.cross_entropy, inputs("mlp"), engine=engine)
    assert op.named(torch.zeros(op.shape[0], dtype=op.dtype)).keys() == {"4.weight", "4.bias"}
    asked = HessianOperator(model, F.cross_entropy, inputs("mlp"), params=r"^1\.", engine=engine)
    assert (asked @ torch.ones(asked.shape[0], dtype=asked.dtype)).norm() > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_unused_and_linear_parameters_have_zero_rows(engine):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(4, 4)
            self.scalar = nn.Parameter(torch.tensor(2.0))
            self.used = nn.Linear(48, 3)
            self.offset = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.used(x.flatten(1)) * self.scalar, self.offset

    def loss(output, targets):
        return F.cross_entropy(output[0], targets) + output[1].sum()

    images, targets = inputs("mlp", torch.float32)
    op = HessianOperator(Partly(), loss, (images, targets), engine=engine)
    rows = op.named(op @ torch.ones(op.shape[0]))
    assert all(rows[name].norm() == 0 for name in ("unused.weight", "unused.bias", "offset"))
    assert rows["scalar"].shape == ()
    assert all(rows[name].norm() > 0 for name in ("scalar", "used.weight", "used.bias"))
    linear = HessianOperator(Partly(), lambda output, targets: output[1].sum(), (images, targets), engine=engine)
    assert (linear @ torch.ones(linear.shape[0])).norm() == 0


def test_parameters_that_are_not_selected_are_constants():
    seen = []

    def loss(output, targets):
        seen.append(output.requires_grad)
        return F.cross_entropy(output, targets)

    model = build("mlp")
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    HessianOperator(model, loss, inputs("mlp"), params=["unused"], engine="graph")
    HessianOperator(model, loss, inputs("mlp"), params=["4.bias"], engine="graph")
    assert seen == [False, True]


def in_blocks():
    """Blocks 0 to 10 with one weight each, and a head, which "head" names as well as "head_norm" has it in its name."""
    blocks = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(11)))
    layers = {"blocks": blocks, "head_norm": nn.LayerNorm(3), "head": nn.Linear(3, 3)}
    return nn.Sequential(OrderedDict(layers)).double()


HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("params", "selected"),
    [
        ("blocks.1", ["blocks.1.weight"]),
        ("blocks.1.weight", ["blocks.1.weight"]),
        ("head", HEAD),
        (["head", "blocks.1"], ["blocks.1.weight", *HEAD]),
        (["head.bias", "blocks.2"], ["blocks.2.weight", "head.bias"]),
        (r"blocks\.1[.0]", ["blocks.1.weight", "blocks.10.weight"]),
        ("hea", ["head_norm.weight", "head_norm.bias", *HEAD]),
    ],
)
def test_names_of_parameters_and_modules_come_before_expressions(params, selected):
    data = (torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    op = HessianOperator(in_blocks(), F.cross_entropy, data, params=params, engine="jvp")
    assert list(op.named(torch.zeros(op.shape[0], dtype=op.dtype))) == selected


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


@pytest.mark.parametrize(
    ("params", "selected"),
    [
        (["second.weight"], ["first.weight"]),
        (["first.weight", "second.weight"], ["first.weight"]),
        ("second", ["first.weight", "second.bias"]),
        (r"^sec", ["first.weight", "second.bias"]),
        (None, ["first.weight", "second.bias"]),
    ],
)
def test_tied_weights_go_by_any_of_their_names(params, selected):
    data = (torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]))
    op = HessianOperator(Tied().double(), F.cross_entropy, data, params=params, engine="jvp")
    assert list(op.named(torch.zeros(op.shape[0], dtype=op.dtype))) == selected


def test_tied_weights_count_once():
    model, data = Tied().double(), (torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]))
    for engine in ENGINES:
        op = HessianOperator(model, F.cross_entropy, data, engine=engine)
        exact = dense_hessian(model, data[0].double(), data[1])
        assert relative_error(op.matmat(torch.eye(20, dtype=op.dtype)), exact) <= 1e-13
