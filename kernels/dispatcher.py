"""An opaque kernel as an op of PyTorch's dispatcher that every transform composes with.

``custom_op`` has no forward mode under ``torch.func``, and an ``autograd.Function`` round an opaque kernel is
silently wrong under jvp of jvp and ignored by ``torch.compile`` of ``torch.func`` transforms. What passes all of
them is an op whose *Autograd kernel* is a single-level Function: PyTorch calls it once per transform level, and it
redispatches to the level below. ``levels.py`` makes the same calls without the dispatcher where it can. These two files
are the only ones that use PyTorch's private names; ``tests/kernels/test_transforms.py`` is their matrix over the
supported releases.

Three details, each silently wrong when left out:
both grad modes are on round a redispatch (the outer levels need them); a forward-mode rule sees the saved tensors
without its own level's tangents; ``needs_input_grad`` is shifted by the keyset argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

try:
    from torch._C import (
        _after_autograd_keyset,
        _any_requires_grad,
        _are_functorch_transforms_active,
        _AutoDispatchBelowAutograd,
        _len_torch_dispatch_stack,
    )
    from torch._C._functorch import get_unwrapped, is_batchedtensor, is_gradtrackingtensor, unwrap_if_dead
    from torch._functorch import eager_transforms
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd.forward_ad import _set_fwd_grad_enabled
    from torch.autograd.function import _SingleLevelFunction
except ImportError as error:  # a release that moved a private name: say so instead of failing later
    raise ImportError(
        f"torch {torch.__version__} lacks a name that alternet builds its derivatives on ({error}); "
        "alternet is tested with torch 2.10 to 2.14"
    ) from error

from . import levels

_LIBRARY = torch.library.Library("alternet", "DEF")


Call = Callable[..., tuple]


class Rules:
    """The derivatives of an op; each gets the ``ctx`` that ``save`` filled.

    ``joint(args, tangents)``, where there is one, computes the op's results and their tangents at once on real tensors,
    or says ``None``: for this call they are had one after the other.
    """

    def __init__(
        self,
        save: Callable[[Any, tuple, tuple], None],
        reverse: Callable[..., tuple],
        forward: Callable[..., tuple] | None,
        joint: levels.Joint | None = None,
    ) -> None:
        self.save, self.reverse, self.forward, self.joint = save, reverse, forward, joint


def define(
    schema: str,
    *,
    kernel: Callable[..., tuple],
    fake: Callable[..., tuple],
    vmap: Callable[..., tuple],
    rules: Rules | None,
    plain: Callable[..., tuple],
) -> Callable[..., tuple]:
    """Register ``alternet::<schema>`` and return the op.

    Args:
        schema: PyTorch's schema language, ending in ``-> (Tensor, ...)``; ``define``'s result returns a tuple.
        kernel: computes it on real tensors, opaque to every transform.
        fake: shapes and dtypes of the results on fake tensors.
        vmap: the batching rule, as ``torch.library.register_vmap`` takes it.
        rules: derivatives by further ops of this library; ``None`` for an op that has none of its own.
        plain: the same function as a composition of PyTorch's differentiable operations, run in the kernel's place
            where a derivative is asked for and there are no ``rules`` for it.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.alternet, name).default
    rule = None if rules is None else _rule(name, rules, _below(op, kernel))
    autograd = _autograd_kernel(_below(op, kernel), rules, rule, plain)
    single = schema.endswith("-> (Tensor)")  # PyTorch passes a single result bare, here everything is a tuple
    dispatched = (lambda *args: (op(*args),)) if single else op
    bottom = _bottom(_below(op, kernel), rules, rule, plain, dispatched)
    if rules is None:
        call = levels.direct(bottom=bottom, dispatched=dispatched)
    else:
        call = levels.walker(name, rules, bottom=bottom, joint=_joint(rules), plain=plain, dispatched=dispatched)
    if single:
        kernel, fake, autograd = _first(kernel), _first(fake), _first(autograd)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"alternet::{name}", fake, lib=_LIBRARY)
    torch.library.register_vmap(f"alternet::{name}", _firsts(vmap) if single else vmap, lib=_LIBRARY)
    _LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)
    return call


def _first(f: Callable[..., tuple]) -> Callable[..., Any]:
    return lambda *args: f(*args)[0]


def _firsts(vmap: Callable[..., tuple]) -> Callable[..., tuple]:
    """A batching rule's results, and where their mapped axes lie: the first of both."""
    return lambda *args: tuple(part[0] for part in vmap(*args))


def _below(op: Any, kernel: Call) -> Call:
    """``below(keyset, *args)``: the op where this level's derivatives are none of its business; no keyset: no level."""

    def below(keyset, *args):
        with _AutoDispatchBelowAutograd():
            results = kernel(*args) if keyset is None else op.redispatch(keyset & _after_autograd_keyset, *args)
        return (results,) if isinstance(results, torch.Tensor) else results

    return below


def _autograd_kernel(below: Call, rules: Rules | None, rule: Any, plain: Call) -> Call:
    def autograd(keyset, *args):
        reverse, forward = _wanted(args, _are_functorch_transforms_active() or forward_ad._current_level >= 0)
        if not (reverse or forward):
            return below(keyset, *args)
        if rules is None or (forward and rules.forward is None):
            return plain(*args)
        with enable_single_level_autograd_function():
            return rule.apply(keyset, *args)

    return autograd


def _bottom(below: Call, rules: Rules | None, rule: Any, plain: Call, dispatched: Call) -> Call:
    """The same below all levels of ``torch.func`` without the dispatcher, for ``levels``."""

    def bottom(*args):
        if not _all_plain(args):
            args = tuple(unwrap_if_dead(a) if isinstance(a, torch.Tensor) else a for a in args)
            if not _all_plain(args):
                return dispatched(*args)
        reverse, forward = _wanted_at_the_bottom(args)
        if not (reverse or forward):
            return below(None, *args)
        if rules is None or (forward and rules.forward is None):
            return plain(*args)
        return rule.apply(None, *args)

    return bottom


def _joint(rules: Rules) -> levels.Joint:
    """``rules.joint`` below all levels of ``torch.func``, where nothing else wants a derivative of it."""

    def joint(args, tangents):
        tensors = (*args, *tangents)
        if rules.joint is None or not _all_plain(tensors) or any(_wanted_at_the_bottom(tensors)):
            return None
        with _AutoDispatchBelowAutograd():
            return rules.joint(args, tangents)

    return joint


def _all_plain(args: tuple) -> bool:
    return not _len_torch_dispatch_stack() and all(levels.is_plain(a) for a in args if isinstance(a, torch.Tensor))


def _wanted(args: Sequence[object], dual: bool) -> tuple[bool, bool]:
    """Whether a reverse-mode, and where ``dual`` a forward-mode derivative of the call is wanted at this level."""
    reverse = torch.is_grad_enabled() and _any_requires_grad(*args)
    forward = dual and any(isinstance(a, torch.Tensor) and levels.tangent(a) is not None for a in args)
    return reverse, forward


def _wanted_at_the_bottom(args: Sequence[object]) -> tuple[bool, bool]:
    """The same where no level of ``torch.func`` is left: a dual level that ``jvp`` opened is its own."""
    return _wanted(args, forward_ad._current_level >= 0 and eager_transforms.JVP_NESTING == 0)


def _rule(name: str, rules: Rules, below: Call) -> Any:
    """The single-level Function of an op; its first argument is that of ``below``."""

    def forward(ctx, keyset, *args):
        ctx.set_materialize_grads(False)
        with _every_grad_mode():
            results = below(keyset, *args)
        rules.save(ctx, args, results)
        return tuple(results)

    def jvp(ctx, _, *tangents):
        assert rules.forward is not None
        with _every_grad_mode():
            return tuple(rules.forward(_Primals(ctx), *tangents))

    methods = {
        "forward": staticmethod(forward),
        "backward": staticmethod(levels.reverse(rules)),
        "jvp": staticmethod(jvp),
    }
    return type(f"{name}_rule", (_SingleLevelFunction,), methods)


class _Primals:
    """The ``ctx`` of a forward-mode rule: what was saved, without this level's tangents (pytorch#197867)."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def saved_tensors(self) -> tuple[torch.Tensor | None, ...]:
        return tuple(t if t is None else torch._unpack_dual(t, level=0)[0] for t in self._ctx.saved_tensors)


@contextmanager
def _every_grad_mode() -> Iterator[None]:
    with torch.enable_grad(), _set_fwd_grad_enabled(True):
        yield


@contextmanager
def outside_transforms() -> Iterator[None]:
    """No transform sees what happens inside: for side effects (running statistics) on ``plain_value``s."""
    with torch.no_grad(), temporarily_clear_interpreter_stack():
        yield


def reshaped(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """``tensor.view(shape)`` of a fresh result, which is no view to autograd.

    What networks do in place to a view (the ReLU after a norm) costs several copies of it in every derivative.
    """
    return torch.ops.aten._unsafe_view(tensor, shape)


def transforms_are_active() -> bool:
    """Whether the caller is inside a level of ``torch.func``."""
    return _are_functorch_transforms_active()


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether the tensor itself, not only its tangents, holds an axis of ``vmap``."""
    return is_batchedtensor(_unwrapped(tensor))


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Without what ``grad`` and ``jvp`` wrapped round it."""
    while is_gradtrackingtensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def plain_value(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without what ``grad`` and ``jvp`` wrapped round it, and without a tangent.

    Raises:
        RuntimeError: it holds an axis of ``vmap``, so that there are many values.
    """
    tensor = _unwrapped(tensor)
    if is_batchedtensor(tensor):
        raise RuntimeError(
            "batch_norm: under vmap over x there are many batches, and one pair of running statistics to update; "
            "pass running_mean=None, running_var=None"
        )
    return (
        forward_ad.unpack_dual(tensor, level=0).primal.detach() if forward_ad._current_level >= 0 else tensor.detach()
    )
