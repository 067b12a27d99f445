"""Operators as such: vectors in their forms, micro-batches, the choice of an engine, arguments."""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alternet.analysis.curvature import hessian
from alternet.analysis.curvature import operator as curvature
from alternet.analysis.curvature.gauss_newton import GaussNewtonOperator
from alternet.analysis.curvature.hessian import HessianOperator

from .small_networks import batch, build, exact_hessian, inputs, relative_error

KINDS = [HessianOperator, GaussNewtonOperator]
ENGINES = ["graph", "jvp"]


def test_names_and_flat_vectors_are_inverse():
    op = HessianOperator(build("vit"), F.cross_entropy, batch())
    vector = torch.randn(op.shape[0], dtype=op.dtype)
    named = op.named(vector)
    shapes = {name: parameter.shape for name, parameter in build("vit").named_parameters()}
    assert {name: tensor.shape for name, tensor in named.items()} == shapes
    assert torch.equal(op.flatten(named), vector)
    del named["norm.bias"]
    with pytest.raises(ValueError, match=r"norm\.bias"):
        op.flatten(named)


def no_scalar(output, targets):
    return output


def operator(model=None, loss=F.cross_entropy, **arguments):
    return HessianOperator(model or build("mlp"), loss, inputs("mlp"), **arguments)


def test_tensors_by_name_give_tensors_by_name():
    op = operator(weight_decay=0.1)
    vectors = torch.randn(op.shape[0], 3, dtype=op.dtype)
    single = op @ op.named(vectors[:, 0])
    assert {name: tensor.shape for name, tensor in single.items()} == op_shapes(build("mlp"))
    assert torch.equal(op.flatten(single), op @ vectors[:, 0].contiguous())
    columns = op.matmat(op.named(vectors))
    assert columns["4.weight"].shape == (3, 10, 3)
    assert torch.equal(op.flatten(columns), op.matmat(vectors))
    assert torch.equal(columns["4.weight"][..., 1], op.named(op.matmat(vectors)[:, 1])["4.weight"])


@pytest.mark.parametrize("engine", ["graph", "jvp"])
def test_no_columns_give_no_columns(engine):
    op = operator(engine=engine)
    none = torch.empty(op.shape[0], 0, dtype=op.dtype)
    assert op.matmat(none).shape == none.shape
    assert op.matmat(op.named(none))["4.weight"].shape == (3, 10, 0)


def op_shapes(model):
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def one_more_axis(op):
    named = op.named(torch.zeros(523, 2, dtype=op.dtype))
    return {**named, "4.bias": named["4.bias"][:, 0]}


@pytest.mark.parametrize("engine", ENGINES)
def test_to_autograd_products_are_constants(engine):
    op = operator(weight_decay=0.1, engine=engine)
    vectors = torch.randn(op.shape[0], 2, dtype=op.dtype, requires_grad=True)
    assert torch.equal(op.matmat(vectors), op.matmat(vectors.detach()))
    for product in (op @ vectors[:, 0], op.matmat(vectors), *(op @ op.named(vectors[:, 0])).values()):
        assert not product.requires_grad


class Scaled(nn.Module):
    """Its first parameter is a scalar."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.tensor(2.0)), nn.Linear(48, 3)

    def forward(self, x):
        return self.scale * self.layer(x.flatten(1))


@pytest.mark.parametrize("params", [None, ["scale", "layer.bias"]])
def test_of_tensors_by_name_the_one_of_a_wrong_shape_is_blamed(params):
    op = operator(Scaled().double(), params=params)
    named = op.named(torch.zeros(op.shape[0], dtype=op.dtype))
    with pytest.raises(ValueError, match=r"expected 'scale' in shape \[\], .*got \[1\]"):
        op @ {**named, "scale": named["scale"][None]}


def test_scipy_finds_the_eigenvalues():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    exact = torch.linalg.eigvalsh(exact_hessian("mlp"))[-3:].numpy()
    wide = linalg.eigsh(operator().to_scipy(), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(wide), exact, rtol=1e-10)
    single = HessianOperator(build("mlp", torch.float32), F.cross_entropy, inputs("mlp")).to_scipy(np.float64)
    assert single.dtype == np.float64
    np.testing.assert_allclose(
        np.sort(linalg.eigsh(single, k=3, which="LA", tol=1e-5, return_eigenvectors=False)), exact, rtol=1e-5
    )


def test_scipy_multiplies_several_vectors_and_from_the_left():
    pytest.importorskip("scipy")
    op = operator(weight_decay=0.1)
    vectors = torch.randn(523, 2, dtype=op.dtype)
    expected = op.matmat(vectors).numpy()
    np.testing.assert_array_equal(op.to_scipy() @ vectors.numpy(), expected)
    np.testing.assert_allclose((vectors.numpy().T @ op.to_scipy()).T, expected, rtol=1e-12)
    assert (op.to_scipy() @ vectors.numpy()[:, :1]).shape == (523, 1)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match="to_scipy needs SciPy: pip install"):
        operator().to_scipy()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_change_nothing_but_the_memory(kind, engine):
    seen = []

    def loss(output, targets):
        seen.append(len(targets))
        return F.cross_entropy(output, targets)

    images, targets = batch()
    data = [(images, targets), (images[:3] + 0.1, targets[:3])]
    whole = kind(build("vit"), F.cross_entropy, data, weight_decay=0.3)
    pieces = kind(build("vit"), loss, data, weight_decay=0.3, micro_batch=2, engine=engine)
    seen.clear()
    vectors = torch.randn(whole.shape[0], 2, dtype=torch.float64)
    assert relative_error(pieces.matmat(vectors), whole.matmat(vectors)) <= 1e-12
    assert relative_error(pieces @ vectors[:, 0], whole @ vectors[:, 0]) <= 1e-12
    assert set(seen) <= {1, 2}


def summed(output, targets):
    return F.cross_entropy(output, targets, reduction="sum")


def test_micro_batches_of_batches_of_several_sizes():
    """The first batch is whole, the second has larger images: no batch of both can be tried."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    images, targets = batch()
    data = [(images[:3, :, :4, :4], targets[:3]), (images, targets)]
    whole, pieces = (HessianOperator(model, F.cross_entropy, data, micro_batch=size) for size in (None, 3))
    vector = torch.randn(whole.shape[0], dtype=torch.float64)
    assert relative_error(pieces @ vector, whole @ vector) <= 1e-12
    with pytest.raises(ValueError, match="loss: expected a mean"):
        HessianOperator(model, summed, data, micro_batch=3)


@pytest.mark.parametrize("engine", ["auto", "graph", "jvp"])
def test_one_target_of_all_images(engine):
    images = inputs("mlp")[0]
    one = torch.tensor(0.3, dtype=torch.float64)
    ops = [
        HessianOperator(build("mlp"), lambda output, target: (output - target).square().mean(), data, engine=engine)
        for data in ((images, one), [(images[:2], one), (images[2:], one)])
    ]
    vector = torch.randn(ops[0].shape[0], dtype=torch.float64)
    assert relative_error(ops[1] @ vector, ops[0] @ vector) <= 1e-12


def test_a_loss_that_is_no_mean_is_not_divided():
    with pytest.raises(ValueError, match="loss: expected a mean over the batch"):
        operator(loss=summed, micro_batch=2)
    operator(loss=summed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_no_mean_is_not_averaged_over_batches(kind):
    images, targets = inputs("mlp")
    with pytest.raises(
        ValueError, match=r"loss: expected a mean over the batch, for several batches .* for every batch"
    ):
        kind(build("mlp"), summed, [(images, targets)] * 2)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=images.dtype)
    for loss in (nn.CrossEntropyLoss(weights), nn.CrossEntropyLoss(ignore_index=1), lambda z, y: z.sum() * torch.nan):
        kind(build("mlp"), loss, [(images, targets)] * 2)


def test_whether_a_loss_is_a_mean_takes_one_pass_and_leaves_alone_what_it_cannot_repeat():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.passes = build("mlp"), 0

        def forward(self, x):
            self.passes += 1
            return self.network(x), x

    model = Pair()
    data = [inputs("mlp")] * 2
    HessianOperator(model, lambda outputs, targets: summed(outputs[0], targets), data, engine="jvp")
    whole = [(data[0][0], torch.ones((), dtype=torch.float64))] * 2
    HessianOperator(build("mlp"), lambda output, _: output.square().sum(), whole, engine="jvp")
    assert model.passes == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_of_batches_may_differ(engine):
    data = [batch(), batch()]
    HessianOperator(build("convolutional"), F.cross_entropy, data, batch_norm="batch", engine=engine)


@pytest.mark.parametrize("tracking", [True, False])
def test_statistics_of_a_batch_are_not_divided(tracking):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=tracking), nn.Flatten()).double()
    mode = "batch" if tracking else "running"
    with pytest.raises(ValueError, match="micro_batch: 1 takes the statistics of the batch"):
        HessianOperator(model, F.cross_entropy, batch(), micro_batch=2, batch_norm=mode)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("memory", "engine"), [(10**9, "graph"), (10**3, "jvp")])
def test_the_engine_is_chosen_by_memory(monkeypatch, kind, memory, engine):
    monkeypatch.setattr(curvature, "available_bytes", lambda device: memory)
    expected = kind(build("vit"), F.cross_entropy, batch(), engine="jvp")
    for pieces in (None, 2):
        op = kind(build("vit"), F.cross_entropy, batch(), micro_batch=pieces)
        assert op.engine == engine
        vector = torch.randn(op.shape[0], dtype=op.dtype)
        assert relative_error(op @ vector, expected @ vector) <= 1e-12


@pytest.mark.parametrize(("memory", "most"), [(1000, 3), (600, 2), (100, 1)])
def test_columns_at_a_time_are_chosen_by_memory(monkeypatch, memory, most):
    monkeypatch.setattr(curvature, "available_bytes", lambda device: memory)
    monkeypatch.setattr(curvature, "predicted_bytes", lambda build, evaluations: 100)
    op = operator(engine="jvp")
    seen = []
    products = hessian._ForwardOverReverse.products

    def counting(engine, directions):
        seen.append(len(directions["4.bias"]))
        return products(engine, directions)

    monkeypatch.setattr(hessian._ForwardOverReverse, "products", counting)
    vectors = torch.randn(op.shape[0], 3, dtype=op.dtype)
    assert relative_error(op.matmat(vectors), exact_hessian("mlp") @ vectors) <= 1e-13
    assert max(seen) == most


@pytest.mark.parametrize(("memory", "runs"), [(10**9, 0), (10**3, 6)])
def test_graphs_are_all_kept_or_built_in_turn(monkeypatch, memory, runs):
    monkeypatch.setattr(curvature, "available_bytes", lambda device: memory)
    seen = []

    def loss(output, targets):
        seen.append(len(targets))
        return F.cross_entropy(output, targets)

    op = operator(loss=loss, micro_batch=2, engine="graph")
    seen.clear()
    for _ in range(2):
        op @ torch.ones(op.shape[0], dtype=op.dtype)
    assert len(seen) == runs
    assert op.engine == "graph"


@pytest.mark.parametrize("name", ["vit", "alternet", "convolutional"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_drafts_under_autocast(kind, engine, name):
    op = kind(build(name, torch.float32), F.cross_entropy, batch(), weight_decay=0.1, engine=engine)
    low = op.under_autocast()
    vectors = torch.randn(op.shape[0], 2)
    drafted, exact = low.matmat(vectors), op.matmat(vectors)
    assert drafted.dtype == torch.float32
    assert 1e-5 <= relative_error(drafted, exact.double()) <= 0.1
    assert relative_error(low @ vectors[:, 0], exact[:, 0].double()) <= 0.1
    low.check()
    assert torch.equal(op.matmat(vectors), exact)


def mixed():
    model = build("mlp")
    model[1].float()
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: operator(engine="fastest"),
            ValueError,
            r"engine: expected one of \['auto', 'graph', 'jvp'\], got 'fastest'",
        ),
        (lambda: operator(weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda: operator(weight_decay=float("nan")), ValueError, "weight_decay"),
        (lambda: operator(weight_decay=float("inf")), ValueError, "weight_decay: expected a finite number.* got inf"),
        (lambda: operator(params="no such"), ValueError, "params: .*no such"),
        (lambda: operator(params=["4.wieght"]), ValueError, r"params: .*'4\.wieght', but \['4\.weight'"),
        (lambda: operator(params="("), ValueError, r"params: expected the name of .* regular expression, got '\('"),
        (lambda: operator(params=3), TypeError, "params: expected None, a string or strings, got 3"),
        (lambda: operator(params=["4.bias", 3]), TypeError, r"params: expected .*, got \['4\.bias', 3\]"),
        (lambda: operator(params=[]), ValueError, "params: .*empty"),
        (lambda: operator(build("mlp").requires_grad_(False)), ValueError, "params: .*require a gradient"),
        (lambda: operator(mixed()), TypeError, "model: .*float32.*float64"),
        (lambda: operator(build("mlp").half()), TypeError, "model: .*float16"),
        (
            lambda: operator(loss=no_scalar, engine="graph"),
            ValueError,
            r"loss: .*scalar, got shape \[5, 3\]",
        ),
        (lambda: operator(loss=lambda output, targets: 1.0), ValueError, "loss: .*scalar, got float"),
        (lambda: operator() @ torch.zeros(7), ValueError, r"vector: expected shape \[523\], got \[7\]"),
        (lambda: operator() @ torch.zeros(523), ValueError, "vector: expected torch.float64"),
        (lambda: operator() @ [1.0], TypeError, "vector: expected a tensor"),
        (lambda: operator(batch_norm="eval"), ValueError, r"batch_norm: expected one of \['running', 'batch'\]"),
        (lambda: operator(dropout="on"), ValueError, r"dropout: expected one of \['off', 'frozen'\], got 'on'"),
        (lambda: operator(micro_batch=0), ValueError, "micro_batch: expected at least one image, got 0"),
        (lambda: operator(micro_batch=1.5), TypeError, "micro_batch: expected a whole number of images, got 1.5"),
        (lambda: operator().under_autocast(), TypeError, "under_autocast: expected a float32 operator"),
        (lambda: operator().to_scipy("int32"), TypeError, "dtype: expected numpy.float32 or numpy.float64, got int32"),
        (lambda: operator() @ {"4.bias": torch.zeros(3)}, ValueError, r"tensors: names .*'1\.bias'"),
        (lambda: operator() @ one_more_axis(operator()), ValueError, r"tensors: expected '4\.bias' in shape \[3\]"),
        (lambda: operator().matmat(torch.zeros(523)), ValueError, r"vector: expected shape \[523, 'm'\]"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
