"""torch.compile with fullgraph, torch.export and opcheck: the compiled program calls our ops and is right."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp

from alternet.kernels import attention, use_backend
from alternet.kernels.attention import cases
from alternet.kernels.attention.cases import on_grid, operator, parameters

GRID = (2, 3)
PARAMETERS = tuple(parameters(0.5, grid=GRID).values())


def eager(query, key, value, bias, table):
    return cases.eager(query, key, value, bias, table, **parameters(0.5, grid=GRID))


def ours(query, key, value, bias, table):
    return attention(query, key, value, bias, table=table, grid=GRID, scale=0.5)


def loss(f):
    return lambda *x: (f(*x) ** 3).sum()


def all_grads(f):
    return grad(loss(f), argnums=(0, 1, 2, 3, 4))


@pytest.fixture
def x():
    torch._dynamo.reset()
    return on_grid(2, 2, GRID, 4, (1, 2), (1, 2, 6, 6))


def assert_close(mine, theirs):
    mine, theirs = torch.utils._pytree.tree_leaves(mine), torch.utils._pytree.tree_leaves(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


TRANSFORMS = {
    "value": lambda f, t: f,
    "grad": lambda f, t: all_grads(f),
    "jvp": lambda f, t: lambda *x: jvp(f, x, t),
    "jvp of grad": lambda f, t: lambda *x: jvp(all_grads(f), x, t),
    "vmap of jvp of grad": lambda f, t: (
        lambda *x: torch.vmap(lambda s: jvp(all_grads(f), x, tuple(s * c for c in t))[1])(
            torch.arange(3.0, dtype=torch.float64)
        )
    ),
}


@pytest.mark.parametrize("engine", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_transforms(name, engine, x):
    t = tuple(torch.randn_like(v) for v in x)
    compiled = torch.compile(TRANSFORMS[name](ours, t), fullgraph=True, backend=engine)
    assert_close(compiled(*x), TRANSFORMS[name](eager, t)(*x))


def test_compiled_training_step(x):
    leaves = [t.clone().requires_grad_() for t in x]
    compiled = torch.compile(loss(ours), fullgraph=True)
    mine = torch.autograd.grad(compiled(*leaves), leaves)
    assert_close(mine, torch.autograd.grad(loss(eager)(*leaves), leaves))


def test_compiled_program_holds_our_ops_and_no_score_matrix(x):
    seen = []

    def record(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    t = tuple(torch.randn_like(v) for v in x)
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    engine = aot_autograd(fw_compiler=lambda g, i: make_boxed_func(record(g, i)))
    torch.compile(TRANSFORMS["jvp of grad"](ours, t), fullgraph=True, backend=engine)(*x)
    names = {name.split(".")[1] for name in seen if name.startswith("alternet.")}
    assert {"attention_forward", "attention_tangent", "attention_backward", "attention_backward_tangent"} <= names
    assert not any("softmax" in name for name in seen)


def test_use_backend_inside_a_compiled_function(x):
    def run(*x):
        with use_backend("reference"):
            return ours(*x)

    assert_close(torch.compile(run, fullgraph=True, backend="aot_eager")(*x), eager(*x))


def test_sizes_and_numbers_that_change(x):
    """The second call makes them symbols."""
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for count, scale in ((6, 0.5), (8, 0.25), (10, 0.125)):
        q = torch.randn(2, 3, count, 4, dtype=torch.float64)
        options = {"grid": (2, count // 2), "kernel_size": 3, "scale": scale}
        assert_close(compiled(q, q, q, **options), attention(q, q, q, **options))


def test_export(x):
    class Model(torch.nn.Module):
        def forward(self, query, key, value, bias, table):
            return ours(query, key, value, bias, table)

    program = torch.export.export(Model(), x)
    assert any("alternet.attention_forward" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(*x), eager(*x))


@pytest.mark.parametrize("name", ["forward", "tangent", "backward", "backward_tangent"])
def test_opcheck(name, x):
    lead = [t[None] for t in x]
    primal = (*x, *operator.forward(*x, *PARAMETERS, "auto"))
    t_yr = operator.tangent(*primal, *lead, *PARAMETERS, "auto")
    g = torch.randn_like(primal[5])
    arguments = {
        "forward": x,
        "tangent": (*primal, *lead),
        "backward": (*primal, g, [True, False, True, True, True]),
        "backward_tangent": (*primal, g, *lead, *t_yr, g[None], [True, True, False, True, True]),
    }[name]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    op = getattr(torch.ops.alternet, f"attention_{name}").default
    result = torch.library.opcheck(op, (*arguments, *PARAMETERS, "auto"), test_utils=checks)
    assert set(result.values()) == {"SUCCESS"}


def test_jvp_of_a_compiled_function_is_refused_by_pytorch(x):
    """pytorch#128711: an error for every op there is. When this fails, say so in the documentation."""
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError):
        jvp(compiled, x, tuple(torch.randn_like(t) for t in x))
