"""The public function: PyTorch's conventions and values, what is left out, one clear error for each bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from alternet.kernels import convolution, second_order
from alternet.kernels.convolution import convolution_pays, products, reference
from alternet.kernels.convolution.cases import CASES, operator

from .layers import normal, product

THEIRS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), axes=st.integers(1, 3), groups=st.integers(1, 3), batch=st.none() | st.integers(0, 3))
def test_values_and_derivatives_are_pytorchs(data, axes, groups, batch):
    numbers = lambda low, high: data.draw(  # noqa: E731
        st.integers(low, high) | st.lists(st.integers(low, high), min_size=axes, max_size=axes)
    )
    stride, dilation = numbers(1, 3), numbers(1, 2)
    words = ["valid", "same"] if stride == 1 else ["valid"]
    padding = data.draw(st.sampled_from(words)) if data.draw(st.booleans()) else numbers(0, 2)
    channels, out_channels = groups * data.draw(st.integers(1, 2)), groups * data.draw(st.sampled_from([1, 2, 9]))
    space = data.draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes))
    window = data.draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
    lead = () if batch is None else (batch,)
    x = [normal(*lead, channels, *space), normal(out_channels, channels // groups, *window), normal(out_channels)]
    options = (stride, padding, dilation, groups)
    try:
        want = product(lambda *x: THEIRS[axes](*x, *options), x)
    except RuntimeError:  # the window is larger than the map
        with pytest.raises(ValueError, match="smaller than the window"):
            convolution(*x, *options)
        assume(False)
    for mine, theirs in zip(product(lambda *x: convolution(*x, *options), x), want, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("out_channels", [6, 64], ids=["many windows", "few"])
@pytest.mark.parametrize("needs", itertools.product((False, True), repeat=3), ids=str)
def test_what_is_asked_for_is_what_comes(needs, out_channels):
    """In float32 too, where oneDNN returns what nobody asked for."""
    x = [normal(2, 3, 8, 8), normal(out_channels, 3, 4, 4), normal(out_channels)]
    x = [t.float() for t in x]
    moving = [t for t, need in zip(x, needs, strict=True) if need]

    def loss(f):
        return lambda *moving: f(*[moving[sum(needs[:i])] if needs[i] else x[i] for i in range(3)], 4).sin().sum()

    if any(needs):
        every = tuple(range(len(moving)))
        mine, theirs = (jvp(grad(loss(f), every), tuple(moving), tuple(moving)) for f in (convolution, F.conv2d))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    y = convolution(*x, 4)
    parameters = {"out_channels": out_channels, "stride": [4, 4], "padding": [0, 0], "dilation": [1, 1]}
    results = reference.backward(x[0], x[1], x[2][:, None], y, y, needs=needs, **parameters)
    assert [t is not None for t in results] == list(needs)


@pytest.mark.parametrize("shape", [(4, 64, 8, 2), (4, 64, 64, 3)], ids=["few windows", "many"])
def test_float32_is_as_exact_as_pytorchs(shape):
    batch, out_channels, channels, size = shape
    weight = normal(out_channels, channels, 3, 3) / (3 * channels**0.5)
    x = [normal(batch, channels, size, size, dtype=torch.float32), weight.float()]
    exact = product(lambda *x: F.conv2d(*x, padding=1), [t.double() for t in x])
    for f in (convolution, F.conv2d):
        for mine, want in zip(product(lambda *x, f=f: f(*x, padding=1), x), exact, strict=True):
            torch.testing.assert_close(mine.double(), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("layout", ["channels last", "sliced"])
def test_strides(layout):
    x, weight = normal(2, 3, 6, 5), normal(4, 3, 2, 2)
    if layout == "channels last":
        x, weight = x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    else:
        x, weight = x[:, :, ::2], weight.flip(2).transpose(2, 3)
    for mine, theirs in zip(product(convolution, [x, weight]), product(F.conv2d, [x, weight]), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert convolution(x, weight).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_pytorchs(dtype):
    x = [normal(2, 3, 5, 5, dtype=dtype), normal(8, 3, 3, 3, dtype=torch.float32), normal(8, dtype=torch.float32)]
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = ([t.float() for t in product(f, x)] for f in (convolution, F.conv2d))
        assert convolution(*x).dtype == torch.bfloat16
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * b.abs().max().item())


def test_shapes_without_memory():
    x, weight, bias = (torch.empty(*s, device="meta", requires_grad=True) for s in ((2, 4, 9, 8), (6, 2, 3, 2), (6,)))
    y = convolution(x, weight, bias, (2, 1), (1, 0), (1, 2), 2)
    assert y.shape == F.conv2d(x, weight, bias, (2, 1), (1, 0), (1, 2), 2).shape
    first = torch.autograd.grad(y.square().sum(), (x, weight, bias), create_graph=True)
    second = torch.autograd.grad([g.square().sum() for g in first], (x, weight, bias))
    assert [t.shape for t in second] == [t.shape for t in (x, weight, bias)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, ...]]:
    """What ``Products.gradients`` is asked for, call by call."""
    calls, original = [], products.Products.gradients

    def recorded(self, grad, x, weight, needs):
        calls.append(tuple(needs))
        return original(self, grad, x, weight, needs)

    monkeypatch.setattr(products.Products, "gradients", recorded)
    return calls


@pytest.mark.parametrize("engine", ["double backward", "jvp of grad"])
def test_nothing_is_computed_for_images(asked, engine):
    images, weight = normal(2, 3, 5, 5), normal(4, 3, 2, 2)
    loss = lambda w: convolution(images, w).sin().sum()  # noqa: E731
    if engine == "jvp of grad":
        jvp(grad(loss), (weight,), (weight,))
    else:
        leaf = weight.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        torch.autograd.grad(first, leaf, weight)
    assert asked
    assert set(asked) == {(False, True, False)}


def test_tangents_share_one_call(asked):
    x, weight = normal(2, 4, 5, 5), normal(6, 2, 2, 2)
    run = lambda *t: jvp(grad(lambda *x: convolution(*x, groups=2).sin().sum(), (0, 1)), (x, weight), t)[1]  # noqa: E731
    counts = []
    for many in (2, 5):
        asked.clear()
        vmap(run)(normal(many, *x.shape), normal(many, *weight.shape))
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("lead", [(2,), ()], ids=str)
def test_results_may_be_changed_in_place(lead):
    x = [normal(*lead, 3, 4, 4), normal(3, 3, 3, 3)]
    mine, theirs = (product(lambda *x, f=f: f(*x).relu_(), x) for f in (convolution, F.conv2d))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["plane", "few windows"])
def test_compiles_whole(name):
    x, parameters = CASES[name]
    x = tuple(t for t in x if t is not None)
    arguments = (parameters["stride"], parameters["padding"], parameters["dilation"])

    def run(*x):
        f = lambda *x: convolution(*x[:2], x[2][:, 0] if len(x) > 2 else None, *arguments).sin().sum()  # noqa: E731
        return jvp(grad(f, tuple(range(len(x)))), x, x)

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(*x), run(*x))


@pytest.mark.parametrize("name", ["forward", "tangent", "backward", "backward_tangent"])
def test_opcheck(name):
    x, parameters = CASES["groups"]
    lead, primal = [torch.stack([t, t]) for t in x], (*x, x[0], x[0].new_empty((len(x[0]), 0)))
    g = torch.randn_like(operator(*x, *parameters.values()))
    arguments = {
        "forward": x,
        "tangent": (*primal, *lead),
        "backward": (*primal, g, [True, False, True]),
        "backward_tangent": (*primal, g, *lead, None, None, torch.stack([g, g]), [True, True, False]),
    }[name]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    op = getattr(torch.ops.alternet, f"convolution_{name}").default
    result = torch.library.opcheck(op, (*arguments, *parameters.values(), "auto"), test_utils=checks)
    assert set(result.values()) == {"SUCCESS"}


def behind(tensor: torch.Tensor) -> str:
    return tensor.grad_fn.name()


def test_second_order_takes_what_pays_and_leaves_the_rest():
    x, dense, depthwise = normal(2, 4, 6, 6), normal(4, 4, 3, 3).requires_grad_(), normal(4, 1, 3, 3).requires_grad_()
    assert not convolution_pays(x, dense, 1, 1)
    with second_order():
        assert behind(F.conv2d(x, depthwise, groups=4)) == "convolution_forward_ruleBackward"
        assert behind(F.conv2d(x, dense, stride=2, padding="valid")) == "convolution_forward_ruleBackward"
        assert behind(F.conv2d(x, dense)) == "ConvolutionBackward0"
        assert behind(F.conv2d(x.to(memory_format=torch.channels_last), dense, stride=2)) == "ConvolutionBackward0"


def test_under_vmap_second_order_serves_tangents_and_leaves_images(asked):
    images, weight = normal(3, 2, 3, 5, 5), normal(4, 3, 2, 2)

    def loss(weight, images):
        with second_order():
            return F.conv2d(images, weight, stride=2).sin().sum()

    vmap(lambda t: jvp(grad(lambda w: loss(w, images[0])), (weight,), (t,))[1])(normal(2, *weight.shape))
    assert asked
    asked.clear()
    each = vmap(grad(loss), in_dims=(None, 0))(weight, images)
    torch.testing.assert_close(each, torch.stack([grad(loss)(weight, image) for image in images]))
    assert len(asked) == len(images)  # those of the loop


BAD = {
    "x: expected a tensor, got list": lambda x, w, b: convolution([1.0], w),
    "x: dtype torch.int64": lambda x, w, b: convolution(x.long(), w),
    r"weight: shape \(4, 3\), expected \[O, C / groups": lambda x, w, b: convolution(x, w[..., 0, 0]),
    r"x: shape \(3,\), expected \[B, C, \*S\]": lambda x, w, b: convolution(x[0, :, 0, 0], w),
    r"weight: shape \(4, 2, 2, 2\), expected \(4, 3, 2, 2\)": lambda x, w, b: convolution(x, w[:, :2]),
    "weight: dtype torch.float32, expected x's dtype": lambda x, w, b: convolution(x, w.float()),
    r"bias: shape \(3,\), expected \(4,\)": lambda x, w, b: convolution(x, w, b[:3]),
    "groups: 2, expected a divisor of x's 3 channels": lambda x, w, b: convolution(x, w, groups=2),
    "groups: expected an integer, got 1.0": lambda x, w, b: convolution(x, w, groups=1.0),
    "stride: expected an integer, got 1.5": lambda x, w, b: convolution(x, w, stride=[1, 1.5]),
    "groups: 0, expected a divisor": lambda x, w, b: convolution(x, w, groups=0),
    "stride: 0, expected one number or 2, from 1 on": lambda x, w, b: convolution(x, w, stride=0),
    r"dilation: \[1, 1, 1\], expected one number or 2": lambda x, w, b: convolution(x, w, dilation=[1, 1, 1]),
    "padding: -1, expected one number or 2, from 0 on": lambda x, w, b: convolution(x, w, padding=-1),
    "padding: 'full', expected numbers, 'valid' or 'same'": lambda x, w, b: convolution(x, w, padding="full"),
    r"padding: 'same' with stride \[2, 2\], expected stride 1": lambda x, w, b: convolution(x, w, None, 2, "same"),
    r"x: shape \(2, 3, 5, 5\), smaller than the window \(2, 2\)": lambda x, w, b: convolution(x, w, dilation=5),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message](normal(2, 3, 5, 5), normal(4, 3, 2, 2), normal(4))
