"""What measuring a model leaves untouched, and what it makes the same in every product."""

import random

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.training.seeding import seeded

from .small_networks import batch, build, dense_hessian, exact_hessian, inputs, relative_error

ENGINES = ["graph", "jvp"]


def state(model):
    return {
        "modes": [module.training for module in model.modules()],
        "classes": [f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()],
        "fused": [getattr(module, "fused_attn", None) for module in model.modules()],
        "frozen": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        },
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identities": [id(tensor) for tensor in [*model.parameters(), *model.buffers()]],
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for what in ("modes", "classes", "fused", "frozen", "identities"):
        assert found[what] == expected[what], what
    for what in ("gradients", "values"):
        torch.testing.assert_close(found[what], expected[what], rtol=0, atol=0)


class Counting(nn.Module):
    """Writes to a buffer in every forward pass, as moving averages outside BatchNorm do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


def pooled_vit():
    """Two kinds of attention: the blocks' and that of the pooling."""
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 1, "num_heads": 2, "class_token": False}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, global_pool="map", **size)


def in_use(name):
    """A model as somebody's script may hold it: modes mixed, a parameter frozen, some gradients there."""
    model = nn.Sequential(Counting(), pooled_vit() if name == "pooled vit" else build(name, torch.float32))
    model[1].eval()
    next(module for module in model[1].modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)).train()
    parameters = list(model.parameters())
    parameters[1].requires_grad_(False)
    parameters[0].grad = torch.ones_like(parameters[0])
    return model


@pytest.mark.parametrize("conditions", [{}, {"batch_norm": "batch", "dropout": "frozen"}], ids=["defaults", "training"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["convolutional", "vit", "pooled vit", "alternet"])
def test_the_model_is_given_back_as_it_came(name, engine, conditions):
    model = in_use(name)
    before = state(model)
    op = HessianOperator(model, F.cross_entropy, batch(), engine=engine, **conditions)
    op @ torch.ones(op.shape[0])
    op.matmat(torch.ones(op.shape[0], 2))
    assert_same(state(model), before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["convolutional", "vit", "pooled vit", "alternet"])
def test_also_when_something_raises(name, engine):
    def loss(output, targets):
        raise RuntimeError("a loss of somebody's own")

    def multiply():
        op = HessianOperator(model, loss, batch(), engine=engine)
        return op @ torch.ones(op.shape[0])

    model = in_use(name)
    before = state(model)
    with pytest.raises(RuntimeError, match="somebody"):
        multiply()
    assert_same(state(model), before)
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # PyTorch's default


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "surroundings",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_modes_change_nothing(surroundings, engine):
    model = build("vit", torch.float32)
    vector = torch.randn(sum(parameter.numel() for parameter in model.parameters()))
    expected = HessianOperator(model, F.cross_entropy, batch(), engine=engine) @ vector
    with surroundings():
        op = HessianOperator(model, F.cross_entropy, batch(), engine=engine)
        inside = op @ vector
    assert torch.equal(inside, expected)
    assert torch.equal(op @ vector, expected)
    assert not expected.requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_is_float32_whatever_matrix_products_are_allowed(engine):
    """PyTorch's switch turns CPU products to bfloat16 where there are instructions for it, GPU products to TF32."""
    before = torch.get_float32_matmul_precision()
    seen = []

    def loss(output, targets):
        seen.append((torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
        seen.append((torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision))
        return F.cross_entropy(output, targets)

    try:
        torch.set_float32_matmul_precision("medium")
        op = HessianOperator(build("mlp", torch.float32), loss, inputs("mlp"), engine=engine)
        op @ torch.ones(op.shape[0])
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {("ieee", "ieee")}


def test_the_batch_may_be_reused_by_its_loader():
    images, targets = inputs("mlp", torch.float32)
    op = HessianOperator(build("mlp", torch.float32), F.cross_entropy, (images, targets), engine="jvp")
    vector = torch.randn(op.shape[0])
    expected = op @ vector
    images.zero_()
    assert torch.equal(op @ vector, expected)


def test_changed_weights_are_noticed_where_the_graph_is_kept():
    model = build("mlp", torch.float32)
    op = HessianOperator(model, F.cross_entropy, inputs("mlp"), engine="graph")
    with torch.no_grad():
        model[4].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        op @ torch.ones(op.shape[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["convolutional", "alternet"])
def test_statistics_of_the_batch_are_differentiated_through(name, engine):
    op = HessianOperator(build(name).eval(), F.cross_entropy, batch(), batch_norm="batch", engine=engine)
    exact = exact_hessian(name, training=True)  # neither network has dropout
    vectors = torch.randn(op.shape[0], 2, dtype=op.dtype)
    assert relative_error(op.matmat(vectors), exact @ vectors) <= 1e-12
    assert relative_error(op @ vectors[:, 0], exact @ vectors[:, 0]) <= 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_masks_are_those_of_the_seed(engine):
    model, data = build("mlp"), inputs("mlp")
    vectors = torch.randn(523, 2, dtype=torch.float64)
    with seeded(3, "masks", 0):
        expected = dense_hessian(model, *data, training=True) @ vectors
    op = HessianOperator(model, F.cross_entropy, data, dropout="frozen", seed=3, engine=engine)
    assert relative_error(op.matmat(vectors), expected) <= 1e-13
    assert relative_error(op @ vectors[:, 0], expected[:, 0]) <= 1e-13
    other = HessianOperator(build("mlp"), F.cross_entropy, data, dropout="frozen", seed=4, engine=engine)
    assert relative_error(other.matmat(vectors), expected) > 0.01


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_of_attention_and_drop_path_are_frozen(engine, kind):
    images, targets = batch()
    data = [(images[:3], targets[:3]), (images[3:], targets[3:])]
    op = kind(build("vit"), F.cross_entropy, data, dropout="frozen", engine=engine)
    op.check()
    vectors = torch.randn(op.shape[0], 2, dtype=op.dtype)
    assert torch.equal(op.matmat(vectors), op.matmat(vectors))
    assert relative_error(op.matmat(vectors)[:, 0], op @ vectors[:, 0]) <= 1e-12


@pytest.mark.parametrize("dropout", ["off", "frozen"])
def test_random_generators_are_given_back(dropout):
    model, data = build("mlp", torch.float32), inputs("mlp", torch.float32)

    def measure():
        op = HessianOperator(model, F.cross_entropy, data, dropout=dropout)
        op @ torch.ones(op.shape[0])

    numbers = []
    for work in (lambda: None, measure):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        work()
        numbers.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert numbers[0] == numbers[1]
