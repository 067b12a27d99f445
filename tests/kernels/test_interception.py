"""``second_order()``: which calls our operators serve, as PyTorch would, and everything that must stay PyTorch's."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, jvp, vmap

from alternet.kernels import second_order

from .graphs import ours


def qkv(*shape: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5)},
        {"dropout_p": 0.0},
    ],
    ids=str,
)
def test_serves_attention_as_pytorch_computes_it(arguments: dict):
    x = qkv(2, 3, 5, 4)
    with second_order():
        out = F.scaled_dot_product_attention(*x, **arguments)
    assert ours(out)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(*x, **arguments))


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


SERVED = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), [(2, 3, 4), (4,), (4,)]),
    "layer_norm of two axes": (lambda x, w, b: F.layer_norm(x, (3, 4), w, b, 1e-3), [(2, 3, 4), (3, 4), (3, 4)]),
    "layer_norm without weights": (lambda x: F.layer_norm(x, (4,)), [(2, 3, 4)]),
    "torch.layer_norm": (lambda x, w: torch.layer_norm(x, (4,), w), [(2, 3, 4), (4,)]),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(4, 3, 2, 2), (3,), (3,)]),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, None, None, w, b), [(2, 3, 2, 2), (3,), (3,)]),
    "instance_norm without weights": (lambda x: F.instance_norm(x, eps=1e-3), [(2, 3, 5)]),
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2), [(2, 3, 7), (4, 3, 3)]),
    "conv2d of groups": (
        lambda x, w, b: F.conv2d(x, w, b, padding="same", groups=2),
        [(2, 4, 5, 5), (6, 2, 3, 2), (6,)],
    ),
    "conv3d": (lambda x, w: F.conv3d(x, w, None, (1, 2, 1), 1), [(2, 2, 3, 3, 3), (3, 2, 2, 2, 3)]),
    "gelu": (F.gelu, [(2, 5)]),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), [(2, 5)]),
    "cross_entropy": (lambda z: F.cross_entropy(z, torch.tensor([1, 0, -100]), label_smoothing=0.1), [(3, 4)]),
    "cross_entropy of probabilities": (lambda z, p: F.cross_entropy(z, p, reduction="sum"), [(3, 4), (3, 4)]),
}


@pytest.mark.parametrize("name", SERVED)
def test_serves_norms_activations_losses_and_convolutions(name: str):
    f, shapes = SERVED[name]
    x = [maps(*shape).requires_grad_() for shape in shapes]

    def inside(*x):
        with second_order():
            return f(*x)

    assert ours(inside(*x))
    torch.testing.assert_close(inside(*x), f(*x))
    for got, want in zip(*(torch.autograd.grad(g(*x).square().sum(), x) for g in (inside, f)), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", [name for name in SERVED if "cross" not in name])
def test_results_may_be_changed_in_place_as_pytorchs(name: str):
    """ReLU in place after a BatchNorm is timm's habit."""
    f, shapes = SERVED[name]
    x = [maps(*shape).requires_grad_() for shape in shapes]

    def product(f):
        first = torch.autograd.grad(f(*x).relu_().square().sum(), x, create_graph=True)
        return torch.autograd.grad(first, x, x)

    def inside(*x):
        with second_order():
            return f(*x)

    for got, want in zip(product(inside), product(f), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", SERVED)
def test_results_may_be_changed_in_place_before_a_gradient_of_a_forward_derivative(name: str):
    """The tangents change with them; PyTorch's own layer_norm and batch_norm are wrong here."""
    f, shapes = SERVED[name]
    x = tuple(maps(*shape) for shape in shapes)

    def derivative(scaled):
        def moved(x):
            with second_order():
                return jvp(lambda *x: scaled(f(*x)), x, x)[1].square().sum()

        return grad(moved)(x)

    for got, want in zip(derivative(lambda y: y.mul_(3)), derivative(lambda y: y * 3), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_losses_may_be_divided_in_place(dtype: torch.dtype, reduction: str):
    """As loops do that add up gradients of several batches."""
    logits, target = maps(3, 4).to(dtype).requires_grad_(), torch.tensor([1, 0, -100])
    want = F.cross_entropy(logits, target, reduction=reduction) / 4
    with second_order():
        loss = F.cross_entropy(logits, target, reduction=reduction)
    loss /= 4
    torch.testing.assert_close(loss, want)
    gradients = (torch.autograd.grad(y.sum(), logits)[0] for y in (loss, want))
    torch.testing.assert_close(*gradients)


def test_an_instance_norm_with_running_statistics_stays_pytorchs():
    layers = [nn.InstanceNorm1d(3, track_running_stats=True).double() for _ in range(2)]
    x = maps(4, 3, 5).requires_grad_()
    with second_order():
        y = layers[0](x)
    assert not ours(y)
    torch.testing.assert_close(y, layers[1](x), rtol=0, atol=0)
    torch.testing.assert_close(layers[0].state_dict(), layers[1].state_dict(), rtol=0, atol=0)


def test_running_statistics_move_as_pytorchs():
    layers = [nn.BatchNorm2d(3).double() for _ in range(2)]
    x = maps(4, 3, 5, 5)
    for layer, context in zip(layers, (contextlib.nullcontext(), second_order()), strict=True):
        with context:
            layer(x)
            layer(x + 1)
    for a, b in zip(*(layer.state_dict().values() for layer in layers), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mapped", [(None, 0, 0), (0, 0, None), (None, None, 0)], ids=str)
def test_running_statistics_of_an_ensemble_move_as_pytorchs(mapped: tuple):
    def run():
        x, running, weight = maps(2, 4, 3, 5), torch.ones(2, 3, dtype=torch.float64), maps(2, 3)
        given = [t if axis == 0 else t[0] for t, axis in zip((x, running, weight), mapped, strict=True)]
        y = vmap(lambda x, s, w: F.batch_norm(x, s, s + 1, w, training=True), in_dims=mapped)(*given)
        return y, running

    want = run()
    with second_order():
        got = run()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("format", [torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize(
    "f",
    [
        F.gelu,
        lambda x: F.gelu(x.transpose(0, 2)),
        lambda x: F.gelu(x[:, :2]),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.batch_norm(x.transpose(2, 3), None, None, training=True),
        lambda x: F.batch_norm(x[:, :2], None, None, training=True),
    ],
)
def test_results_lie_in_memory_as_pytorchs(f, format: torch.memory_format):
    x = maps(2, 3, 4, 5, *[6] * (format is torch.channels_last_3d)).to(memory_format=format).requires_grad_()
    with second_order():
        got = f(x)
    assert ours(got)
    want = f(x)
    assert got.stride() == want.stride()
    torch.testing.assert_close(got, want)
    gradients = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (got, want))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dynamic", [False, True])
def test_channels_last_compiles_whole(dynamic: bool):
    x = maps(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()

    def step(x):
        with second_order():
            return F.gelu(F.batch_norm(x, None, None, training=True)).sin()

    got, want = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)(x), step(x)
    assert got.stride() == want.stride()
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (got, want)))


def test_a_momentum_of_none_averages_over_all_batches():
    layers = [nn.BatchNorm2d(3, momentum=None).double() for _ in range(2)]
    for layer, context in zip(layers, (contextlib.nullcontext(), second_order()), strict=True):
        with context:
            assert ours(layer(maps(4, 3, 5, 5).requires_grad_())) == isinstance(context, second_order)
            layer(maps(4, 3, 5, 5) + 1)
    for a, b in zip(*(layer.state_dict().values() for layer in layers), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.layer_norm(maps(2, 4), (4,), eps=-0.1),
        lambda: F.layer_norm(maps(2, 4), (4,), eps=float("nan")),
        lambda: F.scaled_dot_product_attention(*qkv(2, 3, 5, 4), scale=float("nan")),
        lambda: F.scaled_dot_product_attention(*qkv(2, 3, 5, 4), scale=torch.tensor(0.5)),
    ],
)
def test_strange_numbers_give_what_pytorch_gives(call):
    with second_order():
        got = call()
    torch.testing.assert_close(got, call(), equal_nan=True)


@pytest.mark.parametrize("name", SERVED)
def test_autocast_gives_pytorchs_dtypes(name: str):
    f, shapes = SERVED[name]
    for dtype in (torch.float32, torch.bfloat16):
        x = [maps(*shape).float() for shape in shapes]
        x = [x[0].to(dtype), *x[1:]] if "cross" not in name else [t.to(dtype) for t in x]
        with torch.autocast("cpu", torch.bfloat16):
            want = f(*x)
            with second_order():
                got = f(*x)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.layer_norm(maps(2, 4), (3,)),
        lambda: F.layer_norm(maps(2, 4), (4,), maps(3)),
        lambda: F.batch_norm(maps(1, 3), None, None, training=True),
        lambda: F.instance_norm(maps(2, 3, 1)),
        lambda: F.instance_norm(maps(2, 3, 4), weight=maps(2)),
        lambda: F.gelu(maps(3), approximate="fast"),
        lambda: F.scaled_dot_product_attention(*qkv(1, 1, 2, 3), scale="x"),
        lambda: F.scaled_dot_product_attention(*qkv(1, 1, 2, 3), scale=torch.tensor(0.5, requires_grad=True)),
        lambda: F.layer_norm(maps(2, 4), (4,), eps="a"),
        lambda: F.batch_norm(maps(4, 3), None, None, training=True, eps=-0.1),
        lambda: F.batch_norm(maps(4, 3), None, None, training=True, eps=0),
        lambda: F.batch_norm(maps(4, 3), maps(3).float(), maps(3).float(), training=True),
        lambda: F.batch_norm(maps(4, 3), maps(3).requires_grad_(), maps(3).square()),
        lambda: F.layer_norm(maps(2, 4).half(), (4,), maps(4).half(), maps(4).float()),
        lambda: F.conv2d(maps(1, 2, 3, 3), maps(2, 2, 2, 2), stride=2, padding="same"),
        lambda: F.conv2d(maps(1, 2, 3, 3), maps(2, 1, 4, 4), groups=2),
        lambda: F.conv1d(maps(1, 2, 3, 3), maps(2, 2, 1, 1)),
        lambda: F.cross_entropy(maps(3, 4), torch.tensor([0, 1])),
        lambda: F.cross_entropy(maps(3, 4), torch.tensor([0, 1, 2]), reduction="median"),
        lambda: F.cross_entropy(maps(3, 4), maps(3, 4), ignore_index=1),
    ],
)
def test_what_pytorch_refuses_stays_refused(call):
    with pytest.raises((RuntimeError, TypeError, ValueError)) as want:
        call()
    with pytest.raises(want.type) as got, second_order():
        call()
    assert str(got.value) == str(want.value)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_squared_errors_have_forward_derivatives_of_their_gradients(dtype: torch.dtype, reduction: str):
    """PyTorch's own raises in jvp(grad); 16 bits are those of autocast."""
    z, target, direction = (t.detach().to(dtype) for t in qkv(3, 2))

    def loss(z):
        with second_order(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return F.mse_loss(z, target, reduction=reduction)

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        want = F.mse_loss(z, target, reduction=reduction)
    assert loss(z).dtype == want.dtype
    assert torch.equal(loss(z), want)
    curved = jvp(grad(lambda z: loss(z).sum()), (z,), (direction,))[1]
    torch.testing.assert_close(curved, 2 * direction / (z.numel() if reduction == "mean" else 1))


def test_squared_errors_that_pytorch_warns_about_or_weighs_stay_its_own():
    z, target, weight = (t.detach() for t in qkv(3, 2))
    with pytest.warns(UserWarning, match="Using a target size"), second_order():
        F.mse_loss(z, target[:1])
    with second_order():
        got = F.mse_loss(z, target, weight=weight.square())
        with pytest.raises(ValueError, match="median is not a valid value for reduction"):
            F.mse_loss(z, target, reduction="median")
    assert torch.equal(got, F.mse_loss(z, target, weight=weight.square()))


def test_losses_of_images_and_legacy_arguments_go_to_pytorch():
    with second_order():
        loss = F.cross_entropy(maps(2, 3, 4).requires_grad_(), torch.zeros(2, 4, dtype=torch.int64))
        assert not ours(loss)
        with pytest.warns(UserWarning, match="size_average"):
            assert not ours(F.cross_entropy(maps(2, 3).requires_grad_(), torch.tensor([0, 1]), size_average=False))


def test_dropout_stays_pytorchs_own():
    x = qkv(2, 3, 5, 4)
    torch.manual_seed(1)
    want = F.scaled_dot_product_attention(*x, dropout_p=0.5)
    torch.manual_seed(1)
    with second_order():
        got = F.scaled_dot_product_attention(*x, dropout_p=0.5)
    assert not ours(got)
    assert torch.equal(got, want)


def test_what_pytorch_refuses_is_refused_in_its_words():
    query, key, value = qkv(2, 3, 5, 4)
    for wrong in (
        lambda: F.scaled_dot_product_attention(query, key.float(), value),
        lambda: F.scaled_dot_product_attention(query, key[..., :3], value),
    ):
        with pytest.raises((RuntimeError, ValueError)) as want:
            wrong()
        with pytest.raises(want.type) as got, second_order():
            wrong()
        assert str(got.value) == str(want.value)


def test_a_tensor_subclass_keeps_its_own_rules():
    class Mine(torch.Tensor):
        calls = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.calls += func is F.scaled_dot_product_attention
            return super().__torch_function__(func, types, args, kwargs)

    x = [t.detach().as_subclass(Mine) for t in qkv(1, 1, 3, 2)]
    with second_order():
        F.scaled_dot_product_attention(*x)
    assert Mine.calls == 1


def test_grouped_queries_are_served():
    query = qkv(2, 4, 5, 3)[0]
    key, value, _ = qkv(2, 2, 5, 3)
    want = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    with second_order():
        out = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert ours(out)
    torch.testing.assert_close(out, want)
