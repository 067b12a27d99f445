"""The public function: PyTorch's conventions, values and dtypes, one clear error for each bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap

from alternet.kernels import cross_entropy


def tensors(rows, classes, soft=False, ignored=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)
    if soft:
        return logits, torch.randn(rows, classes, generator=generator, dtype=torch.float64).softmax(-1).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    if ignored:
        target[::2] = 1
    return logits, target


OPTIONS = list(itertools.product(("none", "mean", "sum"), (0.0, 0.3), (False, True), (False, True), (-100, 1)))
OPTIONS = [o for o in OPTIONS if not (o[3] and o[4] == 1)]  # PyTorch has no ignore_index with probabilities


@pytest.mark.parametrize(("reduction", "smoothing", "weighted", "soft", "ignore_index"), OPTIONS)
def test_values_and_gradients_are_pytorchs(reduction, smoothing, weighted, soft, ignore_index, backend):
    logits, target = tensors(7, 4, soft, ignored=True)
    weight = torch.tensor([0.5, 1.5, 0.1, 2.0], dtype=torch.float64) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing, "weight": weight, "ignore_index": ignore_index}
    leaves = [logits.requires_grad_(), *([target.requires_grad_()] if soft else [])]
    mine, theirs = (f(logits, target, **options) for f in (cross_entropy, F.cross_entropy))
    torch.testing.assert_close(mine, theirs)
    pairs = zip(*(torch.autograd.grad(loss.sin().sum(), leaves) for loss in (mine, theirs)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 40), classes=st.integers(1, 70), smoothing=st.sampled_from([0.0, 0.1, 1.0]))
def test_hessian_vector_products_are_pytorchs(rows, classes, smoothing):
    logits, target = tensors(rows, classes)

    def product(f):
        gradient = grad(lambda x: f(x, target, label_smoothing=smoothing))
        return jvp(gradient, (logits,), (logits.flip(0),))

    for mine, theirs in zip(product(cross_entropy), product(F.cross_entropy), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_derivative_by_the_weight_of_probabilities(backend):
    logits, target = tensors(5, 4, soft=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    mine, theirs = (
        torch.autograd.grad(f(logits, target, weight=weight), weight)[0] for f in (cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(mine, theirs)


def test_per_sample_gradients(backend):
    logits, target = tensors(6, 5)
    mine, theirs = (
        vmap(grad(lambda x, y, f=f: f(x[None], y[None])))(logits, target) for f in (cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_of_the_result(dtype, soft, backend):
    logits, target = tensors(9, 33, soft, dtype=dtype)
    for reduction in ("none", "mean"):
        mine = cross_entropy(logits, target, reduction=reduction)
        theirs = F.cross_entropy(logits.float(), target.float() if soft else target, reduction=reduction)
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, theirs.to(dtype))


def test_autocast_computes_in_float32():
    logits, target = tensors(9, 33, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = cross_entropy(logits, target), F.cross_entropy(logits, target)
    assert mine.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(mine, F.cross_entropy(logits.float(), target))


def test_hidden_classes_and_large_logits(backend):
    """-inf hides a class that is not the target; shifting a row by thousands changes nothing."""
    logits, target = tensors(3, 20, dtype=torch.float32)
    logits[torch.arange(3), (target + 1) % 20] = -torch.inf
    shifted = logits + torch.tensor([[-1000.0], [0.0], [1000.0]])
    mine, theirs = (
        grad(lambda x, f=f: f(x, target, reduction="sum"))(shifted) for f in (cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(cross_entropy(shifted, target), F.cross_entropy(shifted, target))


def test_all_rows_ignored_as_in_pytorch(backend):
    logits, target = tensors(3, 4)[0], torch.full((3,), -100)
    assert cross_entropy(logits, target).isnan()
    assert cross_entropy(logits, target, reduction="sum") == 0
    assert (grad(cross_entropy)(logits, target) == 0).all()
    assert (grad(F.cross_entropy)(logits, target) == 0).all()


def test_no_rows(backend):
    logits, target = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert cross_entropy(logits, target, reduction="none").shape == (0,)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bad", [4, -1])
def test_a_class_out_of_range_is_refused_as_by_pytorch(bad, weighted, smoothing, backend):
    logits, target = torch.zeros(2, 4), torch.tensor([0, bad])
    options = {"weight": torch.ones(4) if weighted else None, "label_smoothing": smoothing}
    with pytest.raises(IndexError):
        F.cross_entropy(logits, target, **options)
    for f in (cross_entropy, grad(cross_entropy), torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")):
        with pytest.raises(IndexError, match=r"^target: "):
            f(logits, target, **options)
    with pytest.raises(IndexError, match=r"^target: "):
        vmap(lambda x, y: cross_entropy(x[None], y[None], **options))(logits, target)


@pytest.mark.parametrize(
    ("hidden", "smoothing"),  # without smoothing NaN and inf there give NaN gradients, as PyTorch's
    [(-torch.inf, 0.0), (-torch.inf, 0.1), (torch.inf, 0.1), (torch.nan, 0.1)],
)
def test_what_is_in_an_ignored_row_does_not_matter(hidden, smoothing, backend):
    target = torch.tensor([0, -100])
    weight = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)

    def loss(x):
        return cross_entropy(x, target, weight=weight, label_smoothing=smoothing)

    def derivatives(logits):
        direction = torch.arange(6.0, dtype=torch.float64).view(2, 3)
        first, second = jvp(grad(loss), (logits,), (direction,))
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        return loss(logits), first, second, *torch.autograd.grad(gradient, leaf, direction)

    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    expected = derivatives(logits)
    torch.testing.assert_close(expected[0], F.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing))
    logits[1, 1] = hidden
    for mine, plain in zip(derivatives(logits), expected, strict=True):
        torch.testing.assert_close(mine, plain)
        assert mine.dim() == 0 or (mine[1] == 0).all()


def test_a_learned_weight_is_refused_with_classes():
    logits, target = tensors(3, 4)
    with pytest.raises(NotImplementedError, match="weight: has no derivative"):
        cross_entropy(logits, target, weight=torch.ones(4, dtype=torch.float64, requires_grad=True))


BAD = {
    "logits: expected a tensor, got list": lambda x, y: cross_entropy([1.0], y),
    "logits: dtype torch.int64": lambda x, y: cross_entropy(x.long(), y),
    r"logits: shape \(4,\), expected two axes": lambda x, y: cross_entropy(x[0], y[0]),
    "target: expected a tensor, got int": lambda x, y: cross_entropy(x, 1),
    "target: dtype torch.int32, expected int64 classes or": lambda x, y: cross_entropy(x, y.int()),
    r"target: shape \(2,\), expected \(3,\)": lambda x, y: cross_entropy(x, y[:2]),
    r"target: shape \(3,\), expected \(3, 4\)": lambda x, y: cross_entropy(x, x[:, 0]),
    "target: is on meta, expected logits' device cpu": lambda x, y: cross_entropy(x, y.to("meta")),
    "reduction: 'max', expected": lambda x, y: cross_entropy(x, y, reduction="max"),
    "label_smoothing: expected a number, got 'a'": lambda x, y: cross_entropy(x, y, label_smoothing="a"),
    "ignore_index: expected an integer, got 1.5": lambda x, y: cross_entropy(x, y, ignore_index=1.5),
    "label_smoothing: 1.5, expected 0 to 1": lambda x, y: cross_entropy(x, y, label_smoothing=1.5),
    r"weight: shape \(3,\), expected \(4,\)": lambda x, y: cross_entropy(x, y, weight=x[:, 0]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_clear_error(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message](*tensors(3, 4))
