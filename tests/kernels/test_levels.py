"""Calls that go round PyTorch's dispatcher: they give what it gives, and leave to it what only it can do."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.func import grad, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from alternet.kernels import attention, available_backends, backends, gelu, layer_norm, levels, use_backend
from alternet.kernels.layer_norm.operator import layer_norm_operator


def tensors(count):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(count))


@pytest.fixture(params=["walked", "dispatched"])
def way(request, monkeypatch):
    """Both ways of a call."""
    if request.param == "dispatched":
        monkeypatch.setattr(levels, "_watched", lambda: True)
    return request.param


def loss(x):
    return (gelu(layer_norm(x)) ** 3).sum()


def eager_loss(x):
    """By formula: PyTorch's layer_norm has a wrong third derivative."""
    centred = x - x.mean(-1, keepdim=True)
    u = centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return ((u * torch.special.ndtr(u)) ** 3).sum()


@pytest.mark.filterwarnings("ignore:alternet. this derivative")
def test_a_leaf_outside_of_the_transforms_gets_its_gradient(way):
    x, t = tensors(2)
    leaf = x.clone().requires_grad_()
    mine, theirs = (
        torch.autograd.grad(jvp(grad(f), (leaf,), (t,))[1].sin().sum(), leaf)[0] for f in (loss, eager_loss)
    )
    torch.testing.assert_close(mine, theirs)


def test_a_constant_of_an_outer_level_stays_one(way):
    """The inner gradient does not see x, the outer one does."""
    x, t = tensors(2)

    def outer(x, f):
        return grad(lambda y: (f(x) * y).sum())(t).sum()

    for mine, theirs in zip(
        *(jvp(grad(lambda x, f=f: outer(x, f)), (x,), (t,)) for f in (loss, eager_loss)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_no_grad_outside_of_a_transform_does_not_reach_into_it(way):
    x, t = tensors(2)
    with torch.no_grad():
        mine, theirs = (jvp(grad(f), (x,), (t,))[1] for f in (loss, eager_loss))
    torch.testing.assert_close(mine, theirs)
    leaf = x.clone().requires_grad_()
    with torch.no_grad():
        assert not grad(loss)(leaf).requires_grad


def test_no_grad_inside_of_a_transform_is_heeded(way):
    def half(x):
        with torch.no_grad():
            y = gelu(x)
        return (y * x).sum()

    (x,) = tensors(1)
    torch.testing.assert_close(grad(half)(x), torch.nn.functional.gelu(x))


def test_a_pullback_outlives_its_level(way):
    x, t = tensors(2)
    pull = vjp(gelu, x)[1]
    leaf = t.clone().requires_grad_()
    (cotangent,) = torch.autograd.grad((pull(leaf)[0] * x).sum(), leaf)
    torch.testing.assert_close(cotangent, jvp(torch.nn.functional.gelu, (x,), (x,))[1])


@pytest.fixture
def joint(monkeypatch):
    """The names of the joint maps of activations that were run."""
    if available_backends()["cpu"] is not None:
        pytest.skip("needs the C++ extension")
    maps, called = backends.implementation("activation", "cpu"), []

    def watched(name, run):
        return lambda *args, **parameters: called.append(name) or run(*args, **parameters)

    for name in ("forward_and_tangent", "backward_and_tangent"):
        monkeypatch.setattr(maps, name, watched(name, getattr(maps, name)))
    return called


def test_results_and_their_tangents_come_from_one_map(joint):
    x, t, g, s = tensors(4)

    def gradients(f):
        return lambda x, bias, g: vjp(f, x, bias)[1](g)

    def eager(x, bias):
        return torch.nn.functional.gelu(x + bias)

    torch.testing.assert_close(*(jvp(gradients(f), (x, x[0], g), (t, t[0], s)) for f in (gelu, eager)))
    assert joint == ["forward_and_tangent", "backward_and_tangent"]


@pytest.mark.parametrize("backend", [name for name in ("reference", "cpu") if available_backends()[name] is None])
def test_maps_and_their_tangents_need_no_level_of_their_own(backend, monkeypatch):
    asked = []
    monkeypatch.setattr(layer_norm_operator, "tangent", lambda *args: asked.append("tangent"))
    monkeypatch.setattr(layer_norm_operator, "backward_tangent", lambda *args: asked.append("backward_tangent"))
    x, t, w, b = tensors(4)

    def gradient(f):
        return grad(lambda x, w, b: f(x, w, b).square().sum(), argnums=(0, 1, 2))

    def eager(x, w, b):
        return torch.nn.functional.layer_norm(x, (5,), w, b)

    primals, directions = (x, w[0], b[0]), (t, w[1], b[1])
    with use_backend(backend):
        got = jvp(gradient(layer_norm), primals, directions)
    torch.testing.assert_close(got, jvp(gradient(eager), primals, directions))
    assert asked == []


def test_where_autograd_watches_from_below_the_maps_run_apart(joint):
    x, t = tensors(2)
    leaf = x.clone().requires_grad_()
    product = jvp(grad(lambda x: gelu(x).square().sum()), (leaf,), (t,))[1]
    assert product.requires_grad
    assert joint == []


def test_a_mode_sees_the_op():
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    (x,) = tensors(1)
    with Record():
        jvp(grad(loss), (x,), (x,))
    assert {"alternet.activation_forward.default", "alternet.layer_norm_backward_tangent.default"} <= set(seen)


def test_fake_tensors_stay_fake():
    with FakeTensorMode():
        x = torch.empty(3, 5)
    assert type(gelu(x)) is type(x)
    assert gelu(torch.empty(3, 5, device="meta")).device.type == "meta"


def test_tensors_with_bits_of_the_dispatcher():
    (x,) = tensors(1)
    torch.testing.assert_close(gelu(torch._neg_view(x)), torch.nn.functional.gelu(-x))
    zeros = torch._efficientzerotensor((3, 5), dtype=torch.float64)
    torch.testing.assert_close(gelu(zeros), torch.zeros(3, 5, dtype=torch.float64))
    with torch.inference_mode():
        torch.testing.assert_close(gelu(x.clone()), torch.nn.functional.gelu(x))


@pytest.mark.parametrize("of", [lambda c: c + 0.1 * c * c, lambda c: (0.5 * c).exp()], ids=["square", "exp"])
def test_a_scalar_whose_tangent_comes_in_float64(of, way):
    """PyTorch gives a float32 number times a Python one a tangent in float64."""
    x, t = (each.float() for each in tensors(2))

    def f(x, function):
        return of(function(x.mean()))

    mine, theirs = (
        jvp(grad(lambda x, g=g: f(x, g)), (x,), (t,))[1] for g in (gelu, lambda u: 0.5 * u * (1 + (u / 2**0.5).erf()))
    )
    torch.testing.assert_close(mine, theirs.float())


@pytest.mark.parametrize("f", [gelu, layer_norm, lambda x: attention(x, x, x)], ids=["gelu", "layer_norm", "attention"])
def test_vmap_over_nothing_gives_nothing(f):
    x, nothing = torch.randn(2, 3, 5, 4), torch.zeros(0, 2, 3, 5, 4)
    gradient = grad(lambda x: f(x).square().sum())
    assert vmap(gradient)(nothing).shape == nothing.shape
    assert vmap(lambda t: jvp(gradient, (x,), (t,))[1])(nothing).shape == nothing.shape
    assert vmap(lambda x: jvp(gradient, (x,), (x,))[1])(nothing).shape == nothing.shape
