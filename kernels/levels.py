"""The transform levels of a call, walked in Python: what the dispatcher does with an op of this library, but faster.

PyTorch's dispatcher visits an op once for every level of ``torch.func`` and once more below all of them. Each visit of
a Python kernel converts all arguments four times, and a Hessian-vector product has a dozen: more time than many a
kernel takes. Where a level is ``grad``, ``vjp`` or ``jvp`` the visit is made here instead, by the same rules and in the
same order, as PyTorch itself does for an ``autograd.Function`` (torch/_functorch/autograd_function.py). As of the first
level that is something else the dispatcher takes over: ``vmap``, tracing, functionalisation, modes that see every
operation, tensors that are more than memory with a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

try:
    from torch._C import (
        DispatchKey,
        _current_graph_task_id,
        _dispatch_keys,
        _dispatch_tls_is_dispatch_key_excluded,
        _dispatch_tls_is_dispatch_key_included,
        _is_fwd_grad_enabled,
        _is_tracing,
        _set_fwd_grad_enabled,
        _set_grad_enabled,
    )
    from torch._C._functorch import (
        CGradInterpreterPtr,
        CJvpInterpreterPtr,
        TransformType,
        _unwrap_for_grad,
        _wrap_for_grad,
        get_single_level_autograd_function_allowed,
        peek_interpreter_stack,
        pop_dynamic_layer_stack,
        push_dynamic_layer_stack,
        set_single_level_autograd_function_allowed,
        unwrap_if_dead,
    )
    from torch.autograd import Variable
    from torch.autograd.function import _SingleLevelFunction

    _when_a_run_ends = Variable._execution_engine.queue_callback
except (AttributeError, ImportError) as error:  # a release that moved a private name: say so instead of failing later
    raise ImportError(
        f"torch {torch.__version__} lacks a name that alternet builds its derivatives on ({error}); "
        "alternet is tested with torch 2.10 to 2.14"
    ) from error

Call = Callable[..., tuple]
Joint = Callable[[tuple, Sequence["Tensor | None"]], "tuple[tuple, tuple] | None"]
Result = TypeVar("Result")

_FRONT = DispatchKey.FuncTorchDynamicLayerFrontMode
_PYTHON = DispatchKey.PythonDispatcher


class Level:
    """The innermost level of ``torch.func``, ``grad`` (also ``vjp``) or ``jvp``, as one call sees it."""

    __slots__ = ("grad_mode", "inner", "is_jvp", "number", "outer_mode", "results", "tangents")

    def __init__(self, interpreter: Any, is_jvp: bool) -> None:
        self.number, self.is_jvp = interpreter.level(), is_jvp
        self.outer_mode = (
            CJvpInterpreterPtr(interpreter).prevFwdGradMode()
            if is_jvp
            else CGradInterpreterPtr(interpreter).prevGradMode()
        )
        self.grad_mode = torch.is_grad_enabled()
        self.inner: tuple = ()  # the arguments and the results one level further down
        self.results: tuple = ()
        self.tangents: tuple | None = None  # the results' where they came with them

    def enter(self, args: tuple) -> tuple[tuple, bool]:
        """The arguments as tensors of this level, and whether one of them was before; keeps what lies further down."""
        inner, lifted, own = [], [], False
        for arg in args:
            below = arg
            if isinstance(arg, Tensor):
                arg = unwrap_if_dead(arg)
                below = _unwrap_for_grad(arg, self.number)
                if below is arg:
                    arg = _wrap_for_grad(arg, self.number)  # a constant here, whatever it is further down
                else:
                    own = True
            inner.append(below)
            lifted.append(arg)
        self.inner = tuple(inner)
        return tuple(lifted), own

    def below(self, f: Callable[..., Result], *args: Any) -> Result:
        """f(*args) one level down."""
        grad_mode, fwd_mode = torch.is_grad_enabled(), _is_fwd_grad_enabled()
        layer = pop_dynamic_layer_stack()
        try:
            if not self.outer_mode:  # what was off where this level began is off there still
                (_set_fwd_grad_enabled if self.is_jvp else _set_grad_enabled)(False)
            return f(*args)
        finally:
            push_dynamic_layer_stack(layer)
            _set_grad_enabled(grad_mode)
            _set_fwd_grad_enabled(fwd_mode)

    def wrap(self, results: tuple) -> tuple:
        return tuple(t if t is None else _wrap_for_grad(t, self.number) for t in results)

    def unwrap(self, tensors: tuple) -> list[Tensor | None]:
        return [t if t is None else _unwrap_for_grad(t, self.number) for t in tensors]

    def forget(self) -> None:
        self.inner = self.results = ()
        self.tangents = None


class _Kept:
    """The ``ctx`` of a forward-mode rule, which runs at once."""

    saved_tensors: tuple
    others: tuple

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        pass


def walker(name: str, rules: Any, *, bottom: Call, joint: Joint, plain: Call, dispatched: Call) -> Call:
    """The op as a function that goes round the dispatcher where it can.

    Args:
        name: the op's.
        rules: its derivatives, ``dispatcher.Rules``.
        bottom: the call where no level is left.
        joint: ``joint(args, tangents)`` gives results and their tangents at once where no level is left, or None.
        plain: the call where there is no rule for the derivative that is asked for.
        dispatched: the call by the dispatcher.
    """

    def call(*args: Any) -> tuple:
        return dispatched(*args) if _watched() else walk(*args)

    def walk(*args: Any) -> tuple:
        interpreter = peek_interpreter_stack()
        if interpreter is None:
            return bottom(*args)
        key = interpreter.key()
        if key != TransformType.Jvp and key != TransformType.Grad:
            return dispatched(*args)
        level = Level(interpreter, key == TransformType.Jvp)
        args, own = level.enter(args)
        if not own:
            return level.below(walk, *level.inner)
        if rules.forward is None and any(isinstance(t, Tensor) and tangent(t) is not None for t in args):
            return plain(*args)
        if level.is_jvp and rules.joint is not None:
            tangents = level.unwrap(tuple(tangent(t) if isinstance(t, Tensor) else None for t in args))
            both = level.below(_at_the_bottom, joint, level.inner, tangents)
            if both is not None:
                level.results, level.tangents = both
        allowed = get_single_level_autograd_function_allowed()
        set_single_level_autograd_function_allowed(True)
        try:
            return rule.apply(level, *args)
        finally:
            set_single_level_autograd_function_allowed(allowed)
            level.forget()  # the node of a graph keeps the level, but tensors only where saved_tensors counts them

    rule = _rule(name, rules, walk)
    return call


def direct(*, bottom: Call, dispatched: Call) -> Call:
    """The same of an op that has no derivatives of its own: ``bottom`` where there is no level at all."""

    def call(*args: Any) -> tuple:
        return dispatched(*args) if _watched() or peek_interpreter_stack() is not None else bottom(*args)

    return call


def _rule(name: str, rules: Any, walk: Call) -> Any:
    """The Function of an op at one level; its first argument is the level."""

    def forward(ctx, level, *args):
        ctx.set_materialize_grads(False)
        ctx.level = level
        _set_grad_enabled(level.grad_mode)  # a Function runs without both modes, for the sake of this level alone
        _set_fwd_grad_enabled(True)
        if level.tangents is None:
            level.results = level.below(walk, *level.inner)
        results = level.wrap(level.results)
        if any(ctx.needs_input_grad):
            rules.save(ctx, args, results)
        return results

    def jvp(ctx, _, *tangents):
        level, kept = ctx.level, _Kept()
        if level.tangents is not None:
            return level.wrap(level.tangents)
        rules.save(kept, level.inner, level.results)
        _set_fwd_grad_enabled(True)
        return level.wrap(level.below(rules.forward, kept, *level.unwrap(tangents)))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(reverse(rules)), "jvp": staticmethod(jvp)}
    return type(f"{name}_rule", (_SingleLevelFunction,), methods)


def _at_the_bottom(joint: Joint, args: tuple, tangents: Sequence[Tensor | None]) -> tuple[tuple, tuple] | None:
    return joint(args, tangents) if peek_interpreter_stack() is None else None


def reverse(rules: Any) -> Callable[..., tuple]:
    """The ``backward`` of a Function whose first argument is none of the op's."""

    def backward(ctx, *cotangents):
        return (None, *rules.reverse(_Shifted(ctx), *cotangents))

    return backward


class _Shifted:
    """A ``ctx`` without its Function's first argument; the ``ctx`` itself may serve several threads at once."""

    __slots__ = ("_ctx", "needs_input_grad")

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.needs_input_grad = ctx.needs_input_grad[1:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def run() -> int:
    """The number of the run of autograd's engine that a rule is called in."""
    return _current_graph_task_id()


def at_the_end_of_the_run(f: Callable[[], None]) -> None:
    """Has autograd's engine call ``f`` when the run that a rule is called in has ended well."""
    _when_a_run_ends(f)


def tangent(tensor: Tensor) -> Tensor | None:
    """That of the innermost level."""
    return torch._unpack_dual(tensor, level=0)[1]  # forward_ad.unpack_dual takes four times as long


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is memory of a CPU or a CUDA device and maybe a gradient, as far as the dispatcher knows."""
    keys = _dispatch_keys(tensor).raw_repr()
    return keys in _plain_keys("cpu") or (tensor.is_cuda and keys in _plain_keys("cuda"))


@functools.cache
def _plain_keys(device: str) -> frozenset[int]:
    """Of an ordinary tensor, and of one made in inference mode."""
    ordinary = _dispatch_keys(torch.empty(0, device=device)).raw_repr()
    with torch.inference_mode():
        return frozenset((ordinary, _dispatch_keys(torch.empty(0, device=device)).raw_repr()))


def _watched() -> bool:
    """Whether somebody wants to see the ops themselves."""
    return (
        torch.compiler.is_compiling()
        or _dispatch_tls_is_dispatch_key_excluded(_FRONT)
        or _is_tracing()
        or _dispatch_tls_is_dispatch_key_included(_PYTHON)
    )
