"""The two derivatives of a gradient by x as one map: what is left to a node of ``forward``, and what is not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alternet.kernels.activation import reference as activation_maps
from alternet.kernels.activation.operator import activation_operator
from alternet.kernels.layer_norm import reference as layer_norm_maps
from alternet.kernels.layer_norm.cases import eager as eager_norm
from alternet.kernels.layer_norm.operator import layer_norm_operator


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return layer_norm_operator(x, weight, None, 1e-5)


def gelu(x: Tensor, weight: Tensor) -> Tensor:
    return activation_operator(x * weight, None, "gelu")


OPERATORS = {
    "layer_norm": (layer_norm_operator, layer_norm_maps, norm, lambda x, w: eager_norm(x, w, None, eps=1e-5)),
    "activation": (activation_operator, activation_maps, gelu, lambda x, w: F.gelu(x * w)),
}


@pytest.fixture(params=OPERATORS)
def case(request, monkeypatch):
    """The function by the operator and by PyTorch, and the names of the maps that ran, in order."""
    operator, maps, ours, eager = OPERATORS[request.param]
    ran: list[str] = []

    def counted(name):
        def run(*args, **kwargs):
            ran.append(name)
            return getattr(maps, name)(*args, **kwargs)

        return run

    names = ("forward", "tangent", "backward", "backward_tangent")
    monkeypatch.setattr(operator, "modules", lambda _: SimpleNamespace(**{name: counted(name) for name in names}))
    return SimpleNamespace(ours=ours, eager=eager, ran=ran)


def leaves() -> tuple[Tensor, Tensor]:
    return normal(2, 3, 5).requires_grad_(), (1 + 0.3 * normal(1, 1, 5, seed=1)).requires_grad_()


def gradient(f, x: Tensor, weight: Tensor, power: int = 3) -> tuple[Tensor, ...]:
    """Of a loss whose cotangent depends on y, with its graph."""
    return torch.autograd.grad((f(x, weight) ** power).sum(), (x, weight), create_graph=True)


DIRECTION = normal(2, 3, 5, seed=2), normal(1, 1, 5, seed=3)


def product(slopes, inputs, direction=DIRECTION) -> tuple[Tensor, ...]:
    return torch.autograd.grad(slopes, inputs, direction, retain_graph=True)


def close(got, wanted) -> None:
    torch.testing.assert_close(tuple(got), tuple(wanted))


def test_a_kept_graph_needs_two_maps_a_product(case):
    x, weight = leaves()
    slopes, expected = gradient(case.ours, x, weight), gradient(case.eager, x, weight)
    for _ in range(2):  # the second product is as the first
        case.ran.clear()
        close(product(slopes, (x, weight)), product(expected, (x, weight)))
        assert case.ran == ["tangent", "backward_tangent"]


def test_several_products_at_once(case):
    x, weight = leaves()
    slopes, expected = gradient(case.ours, x, weight), gradient(case.eager, x, weight)
    directions = [torch.stack([t, t.cos(), -t]) for t in DIRECTION]
    case.ran.clear()
    batched = torch.autograd.grad(slopes, (x, weight), directions, retain_graph=True, is_grads_batched=True)
    assert "backward" not in case.ran
    for i, product_i in enumerate(zip(*batched, strict=True)):
        close(product_i, product(expected, (x, weight), [t[i] for t in directions]))


def test_without_a_cotangent_of_the_output(case):
    """A linear loss: the node of ``forward`` runs for what was left to it alone."""
    x, weight = leaves()
    close(
        product(gradient(case.ours, x, weight, 1), (x, weight)),
        product(gradient(case.eager, x, weight, 1), (x, weight)),
    )
    assert case.ran == ["forward", "backward", "tangent", "backward_tangent"]


def test_two_gradients_of_one_forward_pass(case):
    results = []
    for f in (case.ours, case.eager):
        x, weight = leaves()
        y = f(x, weight)
        slopes = [torch.autograd.grad((y**p).sum(), (x, weight), create_graph=True) for p in (2, 3)]
        case.ran.clear()
        results.append(product([*slopes[0], *slopes[1]], (x, weight), (*DIRECTION, *(t.cos() for t in DIRECTION))))
        if f is case.ours:
            assert sorted(case.ran) == ["backward_tangent"] * 2 + ["tangent"] * 2
    close(*results)


def test_each_input_alone(case):
    """Of inner tensors too, where no run reaches the leaves."""
    for chosen in range(3):
        results = []
        for f in (case.ours, case.eager):
            x, weight = leaves()
            inner = x.sin()
            slopes = torch.autograd.grad((f(inner, weight) ** 3).sum(), (x, weight), create_graph=True)
            results.append(product(slopes, ((x, weight, inner)[chosen],)))
        close(*results)


def pending_node(y: Tensor):
    node = y.grad_fn
    while not hasattr(node, "pending"):
        node = node.next_functions[0][0]
    return node


def test_nothing_is_kept_where_the_inputs_are_not_wanted(case):
    x, weight = leaves()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    y = case.ours(x, weight)
    slopes = torch.autograd.grad((scale * y).sum(), (x, weight), create_graph=True)
    product(slopes, (scale,))
    assert not pending_node(y).pending._by_run


def test_a_run_that_failed_leaves_the_next_one_right(case):
    x, weight = leaves()
    y = case.ours(x, weight)
    fails = [True]

    def fail(_):
        if fails[0]:
            raise ValueError("on purpose")

    slopes = torch.autograd.grad((y**3).sum(), (x, weight), create_graph=True)
    y.register_hook(fail)  # after ``backward``'s node, before ``forward``'s
    with pytest.raises(ValueError, match="on purpose"):
        product(slopes, (x, weight))
    fails[0] = False
    close(product(slopes, (x, weight)), product(gradient(case.eager, x, weight), (x, weight)))


def test_third_derivatives(case):
    results = []
    for f in (case.ours, case.eager):
        x, weight = leaves()
        slopes = gradient(f, x, weight)
        second = torch.autograd.grad(slopes, (x, weight), DIRECTION, create_graph=True)
        results.append(torch.autograd.grad(sum((t**2).sum() for t in second), (x, weight)))
    close(*results)


def test_runs_of_several_threads_over_one_graph(case):
    x, weight = leaves()
    slopes = gradient(case.ours, x, weight)
    directions = [tuple(k * t for t in DIRECTION) for k in range(1, 5)]
    found = {}

    def work(k):
        for _ in range(20):
            found[k] = product(slopes, (x, weight), directions[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = product(gradient(case.eager, x, weight), (x, weight))
    for k in range(4):
        close(found[k], [(k + 1) * t for t in expected])


def test_detached_residuals_leave_nothing(case):
    """A node of ``backward`` that autograd does not connect to ``forward``'s computes its share itself."""
    x, weight = leaves()
    with torch.no_grad():
        y = case.ours(x, weight)
    operator = layer_norm_operator if case.ours is norm else activation_operator
    inner = x if case.ours is norm else x * weight
    inputs, parameters = ((x, weight, None), (1e-5,)) if case.ours is norm else ((inner, None), ("gelu",))
    with torch.no_grad():
        results = operator.forward(*inputs, *parameters, "auto")
    needs = [t is not None for t in inputs]
    case.ran.clear()
    (bar, *_) = operator.backward(*inputs, inputs[0], *results[1:], torch.ones_like(y), needs, *parameters, "auto")
    torch.autograd.grad(bar.sum(), x)
    assert case.ran == ["backward", "tangent", "backward_tangent"]
