"""All four C++ maps of attention in one call, and the same by eager PyTorch, differentiated by PyTorch itself."""

from __future__ import annotations

import torch
from torch import Tensor

from alternet.kernels import native
from alternet.kernels.attention.cases import eager, inputs, parameters

if native.unavailable_reason() is None:
    from alternet.kernels.attention import cpu


def tensors(shape, bias_axes=None, *, hidden=False, dtype=torch.float64, count=2, seed=0):
    """(query, key, value, bias or None, no table), grad and ``count`` tangents of all six."""
    batch, heads, queries, keys, width, value_width = shape
    size = None
    if bias_axes is not None:
        size = tuple(n if has else 1 for n, has in zip((batch, heads, queries, keys), bias_axes, strict=True))
    x = *inputs(batch, heads, queries, keys, width, value_width, size, hidden=hidden, dtype=dtype, seed=seed), None
    return x, *directions(x, count, seed)


def directions(x, count=2, seed=0):
    """A cotangent of the output of ``x``, and ``count`` tangents of x and of it."""
    dtype = x[0].dtype
    generator = torch.Generator().manual_seed(seed + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    grad = normal(*x[0].shape[:-1], x[2].shape[-1])
    return grad, tuple(None if t is None else normal(count, *t.shape) for t in (*x, grad))


def run(x, grad, tangents, scale, is_causal, needs=None, **positions):
    """All four maps, one after the other, as the operator calls them."""
    needs = needs or tuple(t is not None for t in x)
    options = parameters(scale, is_causal, **positions)
    out, lse = cpu.forward(*x, **options)
    t_out = t_lse = None
    if any(t is not None for t in tangents[:5]):
        t_out, t_lse = cpu.tangent(*x, out, lse, *tangents[:5], **options)
    gradients = cpu.backward(*x, out, lse, grad, **options, needs=needs)
    t_gradients = cpu.backward_tangent(
        *x, out, lse, grad, *tangents[:5], t_out, t_lse, tangents[5], **options, needs=needs
    )
    return {"out": out, "lse": lse, "t_out": t_out, "t_lse": t_lse, "gradients": gradients, "t_gradients": t_gradients}


def expected(x, grad, tangents, scale, is_causal, dtype=torch.float64, **positions):
    """The same by eager attention in ``dtype`` and torch.func; missing tangents are zeros."""
    present = [i for i in range(5) if x[i] is not None]
    given = tuple(x[i].to(dtype) for i in present)
    count = next(t.shape[0] for t in tangents if t is not None)

    def tangent_of(like: Tensor, t: Tensor | None, k: int) -> Tensor:
        return torch.zeros_like(like, dtype=dtype) if t is None else t[k].to(dtype)

    def f(*given: Tensor) -> Tensor:
        full: list[Tensor | None] = [None] * 5
        for i, tensor in zip(present, given, strict=True):
            full[i] = tensor
        return eager(*full, **parameters(scale, is_causal, **positions))

    def gradients(*args: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(f, *args[:-1])[1](args[-1])

    t_outs, t_gradients = [], []
    for k in range(count):
        directions = tuple(tangent_of(x[i], tangents[i], k) for i in present)
        t_outs.append(torch.func.jvp(f, given, directions)[1])
        arguments, t_grad = (*given, grad.to(dtype)), tangent_of(grad, tangents[5], k)
        t_gradients.append(torch.func.jvp(gradients, arguments, (*directions, t_grad))[1])
    return {
        "out": f(*given),
        "t_out": torch.stack(t_outs),
        "gradients": gradients(*given, grad.to(dtype)),
        "t_gradients": tuple(torch.stack(t) for t in zip(*t_gradients, strict=True)),
    }


def pairs(results, reference):
    """(name, ours, reference) of every result that PyTorch computes too."""
    yield "out", results["out"], reference["out"]
    if results["t_out"] is not None:
        yield "t_out", results["t_out"], reference["t_out"]
    for kind in ("gradients", "t_gradients"):
        ours, others = ([t for t in given[kind] if t is not None] for given in (results, reference))
        for i, (one, other) in enumerate(zip(ours, others, strict=True)):
            yield f"{kind}, number {i}", one, other


def assert_same(one, other):
    """Two results of ``run`` are equal to the last bit."""
    for (name, a, _), (_, b, _) in zip(pairs(one, one), pairs(other, other), strict=True):
        assert torch.equal(a, b), name


def error(ours: Tensor, reference: Tensor) -> float:
    return (ours.double() - reference.double()).abs().max().item()


def check(x, grad, tangents, scale, is_causal=False, **positions):
    results = run(x, grad, tangents, scale, is_causal, **positions)
    reference = expected(x, grad, tangents, scale, is_causal, **positions)
    for name, ours, other in pairs(results, reference):
        assert ours.shape == other.shape, name
        # a gradient that is zero in exact arithmetic (a bias common to all keys) has the rounding error of its terms
        assert error(ours, other) <= 1e-12 * max(1.0, other.abs().max().item()), name
    return results
