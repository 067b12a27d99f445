"""``python -m benchmarks.peers``: which derivatives of attention each package gives right, wrong, or not at all.

Every answer is compared with float64 eager PyTorch. On a machine without a GPU the Triton packages run in Triton's
interpreter, so that this is about answers and never about speed. Peers that are not installed are left out
(``pip install jvp-flash-attention==0.14.0``). Writes benchmarks/results/peers.md and peers.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from alternet.analysis.machine import describe
from alternet.kernels import attention

from . import measure
from .report import RESULTS, save_answers

RIGHT = 1e-3  # relative error in float32 that still counts as right: ten times what rounding makes of these sizes
HEADS, SIZE = 2, 32
FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)

Attention = Callable[..., Tensor]  # (query, key, value, bias=None) -> out
Tensors = Sequence[Tensor]


def eager(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    return (scores if bias is None else scores + bias).softmax(-1) @ value


def sdpa(*allowed: SDPBackend) -> Attention:
    def call(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        with sdpa_kernel(list(allowed)):
            return F.scaled_dot_product_attention(query, key, value, bias)

    return call


def flex(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Uncompiled: its compiled form has no backward on the CPU."""
    if bias is None:
        return flex_attention(query, key, value)
    return flex_attention(query, key, value, lambda score, b, h, i, j: score + bias[h, i, j])


@dataclass(frozen=True)
class Package:
    """``call`` for reverse mode and ``dual`` for whatever has a forward mode in it; most have one function for both."""

    call: Attention
    dual: Attention


def packages() -> dict[str, Package]:
    found = {
        "alternet": Package(attention, attention),
        "SDPA, math": Package(sdpa(SDPBackend.MATH), sdpa(SDPBackend.MATH)),
        "SDPA, fused": Package(sdpa(*FUSED), sdpa(*FUSED)),
        "FlexAttention": Package(flex, flex),
    }
    if importlib.util.find_spec("jvp_flash_attention") is not None:
        name = f"jvp-flash-attention {importlib.metadata.version('jvp-flash-attention')}"
        found[name] = Package(_jvp_flash("fwd"), _jvp_flash("fwd_dual"))
    return found


def _jvp_flash(method: str) -> Attention:
    """Imported when called: what it imports decides then whether Triton compiles or interprets."""

    def call(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        from jvp_flash_attention.jvp_attention import JVPAttn

        mask = None if bias is None else bias.expand(*query.shape[:-1], key.shape[-2]).contiguous()
        # verify_attn_mask: it refuses a mask that hides no key
        return getattr(JVPAttn, method)(query, key, value, attn_mask=mask, verify_attn_mask=False)

    return call


def loss(f: Attention, x: Tensors) -> Tensor:
    return f(*x).square().sum()


def gradient(f: Attention, x: Tensors) -> Tensors:
    leaves = [t.detach().requires_grad_() for t in x]
    return torch.autograd.grad(loss(f, leaves), leaves)


def double_backward(f: Attention, x: Tensors) -> Tensors:
    leaves = [t.detach().requires_grad_() for t in x]
    first = torch.autograd.grad(loss(f, leaves), leaves, create_graph=True)
    return torch.autograd.grad(first, leaves, list(x))


def double_backward_in_a_model(f: Attention, x: Tensors) -> Tensors:
    """With respect to the weights of two layers before the operator: the layers alone have second derivatives too, so
    that an operator without them leaves terms out instead of failing."""
    weights = [torch.eye(SIZE, dtype=x[0].dtype, device=x[0].device).requires_grad_() for _ in range(6)]
    inputs = [t @ first @ second for t, first, second in zip(x, weights[:3], weights[3:], strict=False)]
    slopes = torch.autograd.grad(loss(f, [*inputs, *x[3:]]), weights, create_graph=True)
    return torch.autograd.grad(slopes, weights, [torch.ones_like(w) for w in weights])


def forward_mode(f: Attention, x: Tensors) -> Tensors:
    return [jvp(f, tuple(x), tuple(x))[1]]


def jvp_grad(f: Attention, x: Tensors) -> Tensors:
    first = grad(lambda *x: loss(f, x), argnums=tuple(range(len(x))))
    return jvp(first, tuple(x), tuple(x))[1]


def vmap_jvp_grad(f: Attention, x: Tensors) -> Tensors:
    first = grad(lambda *x: loss(f, x), argnums=tuple(range(len(x))))
    tangents = tuple(torch.stack([t, t.flip(-1), -2 * t]) for t in x)
    return vmap(lambda *t: jvp(first, tuple(x), t)[1])(*tangents)


def dual_numbers(f: Attention, x: Tensors) -> Tensors:
    """jvp(grad) through ``torch.autograd``: the tangent of the gradient at a dual number."""
    leaves = [t.detach().requires_grad_() for t in x]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, t) for leaf, t in zip(leaves, x, strict=True)]
        slopes = torch.autograd.grad(loss(f, duals), duals)
        return [t for t in (forward_ad.unpack_dual(slope).tangent for slope in slopes) if t is not None]


def compiled_gradient(f: Attention, x: Tensors) -> Tensors:
    first = grad(lambda *x: loss(f, x), argnums=tuple(range(len(x))))
    return torch.compile(first, fullgraph=True, backend="aot_eager")(*x)


def third(f: Attention, x: Tensors) -> Tensors:
    leaves = [t.detach().requires_grad_() for t in x]
    value = loss(f, leaves)
    for _ in range(2):
        slopes = torch.autograd.grad(value, leaves, create_graph=True)
        value = sum(((g * t).sum() for g, t in zip(slopes, x, strict=True)), start=value.new_zeros(()))
    return torch.autograd.grad(value, leaves)


@dataclass(frozen=True)
class Question:
    ask: Callable[[Attention, Tensors], Tensors]
    forward_mode: bool = False
    queries: int = 64
    keys: int = 64
    bias: bool = False

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        tokens = [self.queries, self.keys, self.keys]
        shapes = [(1, HEADS, n, SIZE) for n in tokens] + [(HEADS, self.queries, self.keys)] * self.bias
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


QUESTIONS = {
    "forward": Question(lambda f, x: [f(*x)]),
    "gradient": Question(gradient),
    "double backward": Question(double_backward),
    "double backward inside a model": Question(double_backward_in_a_model),
    "jvp": Question(forward_mode, forward_mode=True),
    "jvp(grad)": Question(jvp_grad, forward_mode=True),
    "vmap(jvp(grad))": Question(vmap_jvp_grad, forward_mode=True),
    "gradient of a dual number": Question(dual_numbers, forward_mode=True),
    "torch.compile(grad), whole graph": Question(compiled_gradient),
    "third derivative": Question(third),
    "forward with a bias": Question(lambda f, x: [f(*x)], bias=True),
    "gradient of a bias": Question(gradient, bias=True),
    "double backward with a learned bias": Question(double_backward, bias=True),
    "jvp(grad) with a learned bias": Question(jvp_grad, forward_mode=True, bias=True),
    "gradient, 50 tokens": Question(gradient, queries=50, keys=50),
    "gradient, 64 queries and 32 keys": Question(gradient, keys=32),
}


def verdict(package: Package, question: Question, device: str) -> str:
    """``right``, ``wrong (relative error)`` or ``refuses (error)``."""
    x = question.inputs()
    want = question.ask(eager, x)
    f = package.dual if question.forward_mode else package.call
    return measure.verdict(lambda: question.ask(f, [t.float().to(device) for t in x]), want, RIGHT)


def table(device: str) -> dict[str, dict[str, str]]:
    titles = list(packages())
    return {name: {title: _isolated_verdict(title, name, device) for title in titles} for name in QUESTIONS}


def _isolated_verdict(package: str, question: str, device: str) -> str:
    """In a process of its own, since a kernel that reads outside its tensors takes the process with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alternet.kernels", "torch.nn.attention.flex_attention"])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(package, question, device, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        return "**crashes**"
    finally:
        process.join()


def _answer(package: str, question: str, device: str, send: Any) -> None:
    warnings.simplefilter("ignore")  # deprecations of peers
    torch.set_num_threads(1)
    send.send(verdict(packages()[package], QUESTIONS[question], device))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # for the processes that answer
    rows = table(device)
    about = describe()
    where = "on a GPU" if device == "cuda" else "on the CPU, Triton packages in Triton's interpreter"
    note = f"torch {about['torch']}, float32 against float64 eager, {where}; `python -m benchmarks.peers` remakes it."
    save_answers(options.out, "peers", rows, note)


if __name__ == "__main__":
    main()
