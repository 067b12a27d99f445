"""The Hessian operator against dense float64 Hessians from another path, and the state it leaves behind."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet import AlterNet, BasicBlock
from alternet.analysis.hessian import HessianOperator
from alternet.analysis.lanczos import top_eigenvalues
from alternet.kernels import use_backend

ENGINES = ["graph", "jvp"]


class TokenTransformer(nn.Module):
    """PyTorch's own attention, which calls the fused kernel and has a fast path of its own in eval mode."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, activation="gelu", batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x).flatten(2).mT).mean(1))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Tanh(), nn.Dropout(0.5), nn.Linear(10, 3))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def vit():
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 6, "depth": 1, "num_heads": 2, "mlp_ratio": 1}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, drop_path_rate=0.5, attn_drop_rate=0.5, **size)


def alternet():
    size = {"widths": [2] * 4, "num_heads": [2] * 4, "head_dim": 2, "window_size": 2, "stem_pool": False}
    return AlterNet(BasicBlock, depths=[1, 2, 1, 1], msa_depths=[0, 1, 0, 0], num_classes=3, **size)


MODELS = {
    "mlp": mlp,
    "convolutional": convolutional,
    "vit": vit,
    "transformer": TokenTransformer,
    "alternet": alternet,
}


def build(name, dtype=torch.float64):
    """The network with running statistics and norms that are not their initial ones."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5)
    return model.to(dtype).train()


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.tensor([0, 1, 2, 1, 0])


def inputs(name, dtype=torch.float64):
    images, targets = batch(dtype)
    return (images[:, :, :4, :4] if name == "mlp" else images), targets


def dense_hessian(model, images, targets):
    """Double backward through the module itself on PyTorch's plain operations, all columns at once."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    parameters = list(model.parameters())
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), use_backend("reference"):
        loss = F.cross_entropy(model(images), targets)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        entries = torch.cat([part.flatten() for part in gradient])
        eye = torch.eye(len(entries), dtype=entries.dtype)
        rows = torch.autograd.grad(entries, parameters, eye, is_grads_batched=True)
    torch.backends.mha.set_fastpath_enabled(fastpath)
    return torch.cat([part.flatten(1) for part in rows], dim=1)


@pytest.fixture(scope="module")
def dense():
    """Dense float64 Hessians by the name of the network, each computed once."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = dense_hessian(build(name), *inputs(name))
        return known[name]

    return of


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


# float32: rounding of 0.7e-6 was seen with torch 2.14, 1.2e-6 with torch 2.10; a wrong term is a thousand times more.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_dense_hessian(dense, name, engine, dtype, tolerance):
    op = HessianOperator(build(name, dtype), F.cross_entropy, inputs(name), engine=engine)
    exact = dense(name)
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
def test_top_eigenvalues_are_those_of_the_dense_hessian(dense, name, engine, dtype, tol, error):
    op = HessianOperator(build(name, dtype), F.cross_entropy, inputs(name), engine=engine)
    exact = torch.linalg.eigvalsh(dense(name))
    exact = exact[exact.abs().argsort(descending=True)][:5]
    found = top_eigenvalues(op, 5, tol=tol)
    assert found.converged.all()
    torch.testing.assert_close(found.values, exact, rtol=0, atol=error * exact[0].abs().item())


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
def test_weight_decay_shifts_by_itself(dense, engine):
    model, decay = build("convolutional"), 0.05
    op = HessianOperator(model, F.cross_entropy, batch(), weight_decay=decay, engine=engine)
    vectors = torch.randn(op.shape[0], 2, dtype=op.dtype)
    expected = dense("convolutional") @ vectors + decay * vectors
    assert relative_error(op.matmat(vectors), expected) <= 1e-13
    assert relative_error(op @ vectors[:, 0], expected[:, 0]) <= 1e-13


def test_one_hot_soft_targets_are_integer_targets(dense):
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
def test_a_selection_is_a_block_of_the_hessian(dense, params, selected, engine):
    op = HessianOperator(build("mlp"), F.cross_entropy, inputs("mlp"), params=params, engine=engine)
    whole = HessianOperator(build("mlp"), F.cross_entropy, inputs("mlp"))
    places = whole.named(torch.arange(whole.shape[0], dtype=torch.float64))
    chosen = torch.cat([places[name].flatten() for name in selected]).long()
    eye = torch.eye(op.shape[0], dtype=op.dtype)
    assert relative_error(op.matmat(eye), dense("mlp")[chosen][:, chosen]) <= 1e-13


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


def test_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).tanh())

    model, data = Tied().double(), (torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]))
    for engine in ENGINES:
        op = HessianOperator(model, F.cross_entropy, data, engine=engine)
        exact = dense_hessian(model, data[0].double(), data[1])
        assert relative_error(op.matmat(torch.eye(16, dtype=op.dtype)), exact) <= 1e-13


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["convolutional", "vit", "pooled vit", "alternet"])
def test_the_model_is_given_back_as_it_came(name, engine):
    model = in_use(name)
    before = state(model)
    op = HessianOperator(model, F.cross_entropy, batch(), engine=engine)
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


def operator(model=None, loss=F.cross_entropy, **arguments):
    return HessianOperator(model or build("mlp"), loss, inputs("mlp"), **arguments)


def mixed():
    model = build("mlp")
    model[1].float()
    return model


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: operator(engine="fastest"), ValueError, r"engine: expected one of \['graph', 'jvp'\], got 'fastest'"),
        (lambda: operator(weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda: operator(weight_decay=float("nan")), ValueError, "weight_decay"),
        (lambda: operator(params="no such"), ValueError, "params: .*no such"),
        (lambda: operator(params=["4.wieght"]), ValueError, r"params: .*'4\.wieght', but \['4\.weight'"),
        (lambda: operator(params=[]), ValueError, "params: .*empty"),
        (lambda: operator(build("mlp").requires_grad_(False)), ValueError, "params: .*require a gradient"),
        (lambda: operator(mixed()), TypeError, "model: .*float32.*float64"),
        (lambda: operator(build("mlp").half()), TypeError, "model: .*float16"),
        (lambda: operator(loss=lambda output, targets: output), ValueError, r"loss: .*scalar, got shape \[5, 3\]"),
        (lambda: operator(loss=lambda output, targets: 1.0), ValueError, "loss: .*scalar, got float"),
        (lambda: operator() @ torch.zeros(7), ValueError, r"vector: expected shape \[523\], got \[7\]"),
        (lambda: operator() @ torch.zeros(523), ValueError, "vector: expected torch.float64"),
        (lambda: operator() @ [1.0], TypeError, "vector: expected a tensor"),
        (lambda: operator().matmat(torch.zeros(523)), ValueError, r"vector: expected shape \[523, 'm'\]"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
