"""Four maps make every derivative: the autograd glue, written once for all operators.

Let an operator be y = f(x), with x its differentiable inputs and r the residuals it saves for later (attention: the
row-wise log-sum-exp). A backend gives four maps, none of which builds more than its inputs and outputs:

=================  ==================================  =========================
map                computes                            is
=================  ==================================  =========================
forward            y, r                                f
tangent            y', r'   from x'                    the Jacobian times x'
backward           x̄        from g                     Jᵀ g
backward_tangent   x̄'       from x', g'                the tangent of Jᵀ g
=================  ==================================  =========================

Reverse mode is ``backward`` and forward mode ``tangent``. Forward over reverse, the Hessian-vector product
jvp(grad(loss)), is ``backward_tangent``. Reverse over reverse needs nothing further: for a cotangent u of x̄,
∂⟨u, J(x)ᵀg⟩/∂g = J(x) u is ``tangent(u)``, and ∂⟨u, J(x)ᵀg⟩/∂x = d/dε J(x+εu)ᵀ g is ``backward_tangent(u, g'=0)``
because second derivatives are symmetric. The cotangent of y that comes of it asks for a ``backward`` at the same x,
which goes into that ``backward_tangent`` as g' (``pending.py``): a Hessian-vector product of a kept graph is two maps.
Reverse over forward is the same pair the other way round.

y and r enter ``tangent``, ``backward`` and ``backward_tangent`` as *functions of x*: a derivative with respect to x
holds their share already, and none flows into them. Derivatives beyond these (forward over forward, third order) run
the reference maps as plain PyTorch operations, which PyTorch differentiates to any order at the cost of its memory.

Several tangents travel together on a leading axis T of every primed tensor, so that a backend may share the primal
recompute between them; ``vmap`` over tangents becomes that axis.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import backends, dispatcher
from .maps import Arguments, Map, MaybeTensors, Signature, or_nothing
from .pending import Pending, pending_of

__all__ = ["Operator", "Signature"]


class Operator:
    """An operator with every derivative: ``operator(*x, *parameters)`` returns y.

    ``modules(backend)`` gives the module with the four maps of a backend; by default the operator's own folder. Every
    primed argument has a leading axis T or is ``None``, which means zero; ``needs`` is one flag for each of x, and a
    result that is not needed is ``None``::

        forward(*x, **parameters) -> (y, *r)
        tangent(*x, y, *r, *x', **parameters) -> (y', *r')
        backward(*x, y, *r, g, needs=, **parameters) -> x̄
        backward_tangent(*x, y, *r, g, *x', y', *r', g', needs=, **parameters) -> x̄'

    A backend may have two more, of which jvp(grad) is made where both parts are wanted and share work::

        forward_and_tangent(*x, *x', **parameters) -> (y, *r, y', *r')
        backward_and_tangent(*x, y, *r, g, *x', y', *r', g', needs=, **parameters) -> (*x̄, *x̄')
    """

    def __init__(self, signature: Signature, modules: Callable[[str], ModuleType] | None = None) -> None:
        self.signature = signature
        self.modules = modules or functools.partial(backends.implementation, signature.name)
        self.forward = _Forward(self).op
        self.tangent = _Tangent(self).op
        self.backward = _Backward(self).op
        self.backward_tangent = _BackwardTangent(self).op

    def __call__(self, *args: Any) -> Tensor:
        return self.forward(*args, backends.chosen())[0]


class _Forward(Map):
    name, groups = "forward", ("x",)

    def save(self, ctx: Any, args: tuple, results: tuple) -> None:
        if not self.signature.needs_output:
            results = (args[0], *results[1:])
        super().save(ctx, args, results)
        ctx.pending = Pending()

    def fake(self, a: Arguments) -> Sequence[Tensor]:
        return self.with_link(self.signature.fake(*a.x, **self.parameters(a)))

    def rules(self) -> dispatcher.Rules:
        return dispatcher.Rules(self.save, self.reverse, self.push, self.joint)

    def joint(self, args: tuple, tangents: MaybeTensors) -> tuple[tuple, tuple] | None:
        a = self.parse(args)
        t_x = _lead(tangents[: self.n], a.x)
        both = self.joint_map(a, t_x)
        if both is None:
            return None
        results = both(*a.x, *t_x, **self.parameters(a))
        half = len(results) // 2
        return self.with_link(results[:half]), self.with_link(tuple(t[0] for t in results[half:]))

    def in_turn(self, module: ModuleType, *tensors: Tensor | None, **parameters: Any) -> tuple:
        x, t_x = tensors[: self.n], tensors[self.n :]
        yr = module.forward(*x, **parameters)
        kept = yr if self.signature.needs_output else (x[0], *yr[1:])
        return (*yr, *module.tangent(*x, *kept, *t_x, **parameters))

    def reverse(self, ctx: Any, g: Tensor | None, *r_bar: Tensor | None) -> tuple:
        """Jᵀ g, and the shares that nodes of ``backward`` have left."""
        _refuse_residual_cotangents(r_bar)
        shares = ctx.pending.take()
        if g is None and not shares:
            return self.cotangents()
        a, yr = self.saved(ctx)
        needs = ctx.needs_input_grad[: self.n]
        if not shares:
            return self.cotangents(x=_only(needs, self.operator.backward(*a.x, *yr, g, needs, *a.rest)))
        t_g = [None if g is None else g.unsqueeze(0), *[None] * (len(shares) - 1)]
        terms = [
            self.operator.backward_tangent(*a.x, *yr, *share, t_g_i, needs, *a.rest)
            for share, t_g_i in zip(shares, t_g, strict=True)
        ]
        columns = _columns(terms, needs)
        x_bar = [functools.reduce(torch.add, [t[0] for t in column]) if column else None for column in columns]
        return self.cotangents(x=x_bar)

    def push(self, ctx: Any, *tangents: Tensor | None) -> tuple:
        a, yr = self.saved(ctx)
        t_yr = self.operator.tangent(*a.x, *yr, *_lead(tangents[: self.n], a.x), *a.rest)
        return tuple(t[0] for t in t_yr)


class _Tangent(Map):
    name, groups = "tangent", ("x", "yr", "t_x")
    batch_axis = 1

    def save(self, ctx: Any, args: tuple, results: tuple) -> None:
        if not self.signature.needs_output:
            results = (None, *results[1:])
        super().save(ctx, args, results)

    def fake(self, a: Arguments) -> Sequence[Tensor]:
        count = _count(a.t_x)
        return self.with_link(
            tuple(t.new_empty((count, *t.shape)) for t in self.signature.fake(*a.x, **self.parameters(a)))
        )

    def rules(self) -> dispatcher.Rules:
        return dispatcher.Rules(self.save, self.reverse, None)

    def reverse(self, ctx: Any, w: Tensor | None, *r_bar: Tensor | None) -> tuple:
        """Of y' = J(x) x' for its cotangent w: Jᵀ w to x', and d/dε J(x + εx')ᵀ w to x."""
        _refuse_residual_cotangents(r_bar)
        if w is None:
            return self.cotangents()
        a, t_yr = self.saved(ctx)
        needs, needs_t = ctx.needs_input_grad[: self.n], ctx.needs_input_grad[-len(a.rest) - self.n : -len(a.rest)]
        x_bars, t_bars = [], []
        for i, w_i in enumerate(w.unbind(0)):  # every tangent has a cotangent of its own
            at_i = [None if t is None else t[i : i + 1] for t in (*a.t_x, *t_yr)]
            primal = (*a.x, *a.yr, w_i)
            if any(needs):
                x_bars.append(self.operator.backward_tangent(*primal, *at_i, None, needs, *a.rest))
            if any(needs_t):
                t_bars.append(self.operator.backward(*primal, needs_t, *a.rest))
        x_bar = [torch.cat(terms).sum(0) if terms else None for terms in _columns(x_bars, needs)]
        t_bar = [torch.stack(terms) if terms else None for terms in _columns(t_bars, needs_t)]
        return self.cotangents(x=x_bar, t_x=t_bar)

    def plain(self, a: Arguments) -> tuple[Tensor, ...]:
        _say_plain(self.signature.name)
        maps, parameters = self.operator.modules("reference"), self.parameters(a)
        return self.with_link(maps.tangent(*a.x, *maps.forward(*a.x, **parameters), *a.t_x, **parameters))


class _Backward(Map):
    name, groups = "backward", ("x", "yr", "g")
    returns_gradients = True

    def fake(self, a: Arguments) -> Sequence[Tensor]:
        return [_like(x, need, a.g[0], ()) for x, need in zip(a.x, a.needs, strict=True)]

    def rules(self) -> dispatcher.Rules:
        return dispatcher.Rules(self.save, self.reverse, self.push, self.joint)

    def joint(self, args: tuple, tangents: MaybeTensors) -> tuple[tuple, tuple] | None:
        a = self.parse(args)
        t = _lead(tangents[: self.n_tensors], a.tensors)
        t_x, t_yr = t[: self.n], t[self.n : self.n + self.n_yr]
        both = self.joint_map(a, t_x)
        if both is None or any(t is None for t in t_yr):
            return None
        results = both(*self.unlinked(a.tensors), *self.unlinked(t), needs=a.needs, **self.parameters(a))
        bars = [or_nothing(t, a.g[0]) for t in results]
        return tuple(bars[: self.n]), tuple(t[0] if n else t for n, t in zip(a.needs, bars[self.n :], strict=True))

    def in_turn(self, module: ModuleType, *tensors: Tensor | None, **parameters: Any) -> tuple:
        bars = module.backward(*tensors[: len(tensors) // 2], **parameters)
        return (*bars, *module.backward_tangent(*tensors, **parameters))

    def reverse(self, ctx: Any, *u: Tensor | None) -> tuple:
        """Of x̄ = J(x)ᵀ g for its cotangent u: J u to g, and d/dε J(x + εu)ᵀ g to x."""
        a, _ = self.saved(ctx)
        t_x = _lead(_only(a.needs, u), a.x)
        if all(t is None for t in t_x):
            return self.cotangents()
        primal = (*a.x, *a.yr)
        t_yr = self.operator.tangent(*primal, *t_x, *a.rest)
        needs = ctx.needs_input_grad[: self.n]
        x_bar: list[Tensor | None] = [None] * self.n
        pending = pending_of(a.yr)
        if any(needs) and pending is not None:
            pending.leave((*a.g, *t_x, t_yr[0] if self.signature.needs_output else None, *t_yr[1:]))
        elif any(needs):
            terms = self.operator.backward_tangent(*primal, *a.g, *t_x, *t_yr, None, needs, *a.rest)
            x_bar = [t[0] if need else None for need, t in zip(needs, terms, strict=True)]
        g_bar = t_yr[0][0] if ctx.needs_input_grad[self.n + self.n_yr] else None
        return self.cotangents(x=x_bar, g=(g_bar,))

    def push(self, ctx: Any, *tangents: Tensor | None) -> tuple:
        a, _ = self.saved(ctx)
        t = _lead(tangents[: self.n_tensors], a.tensors)
        t_x, t_g = t[: self.n], t[self.n + self.n_yr :]
        t_yr: MaybeTensors = t[self.n : self.n + self.n_yr]
        if all(t is None for t in (*t_x, *t_g)):
            return tuple(torch.zeros_like(t) for t in self.fake(a))
        read = t_yr if self.signature.needs_output else t_yr[1 : 1 + len(self.signature.residuals)]
        if all(t is None for t in t_x):
            t_yr = [None] * self.n_yr
        elif any(t is None for t in read):  # y and r came from elsewhere: their tangents still follow from x'
            t_yr = self.operator.tangent(*a.x, *a.yr, *t_x, *a.rest)
        terms = self.operator.backward_tangent(*a.tensors, *t_x, *t_yr, *t_g, a.needs, *a.rest)
        return tuple(t[0] if need else t for need, t in zip(a.needs, terms, strict=True))


class _BackwardTangent(Map):
    name, groups = "backward_tangent", ("x", "yr", "g", "t_x", "t_yr", "t_g")
    returns_gradients = True

    def fake(self, a: Arguments) -> Sequence[Tensor]:
        count = (_count((*a.t_x, *a.t_g)),)
        return [_like(x, need, a.g[0], count) for x, need in zip(a.x, a.needs, strict=True)]

    def rules(self) -> dispatcher.Rules:
        return dispatcher.Rules(self.save, self.reverse, None)

    def reverse(self, ctx: Any, *u: Tensor | None) -> tuple:
        """A third derivative: PyTorch's own, of ``plain``. Only here, for a graph is often made and never used."""
        a, _ = self.saved(ctx)
        follows = [group in ("yr", "t_yr") for group, size in self.sizes for _ in range(size)]  # y, r, y', r': of x, x'
        constants = {self.signature.inputs.index(name) for name in self.signature.constants}
        where = [i for i, t in enumerate(a.tensors) if t is not None and not follows[i] and i not in constants]
        outputs = [i for i, (need, t) in enumerate(zip(a.needs, u, strict=True)) if need and t is not None]

        def plain(*given: Tensor) -> tuple[Tensor, ...]:
            tensors = list(a.tensors)
            for i, t in zip(where, given, strict=True):
                tensors[i] = t
            results = self.plain(self.parse((*tensors, a.needs, *a.rest)))
            return tuple(results[i] for i in outputs)

        pull: Any = torch.func.vjp(plain, *[a.tensors[i] for i in where])[1]
        bars: list[Tensor | None] = [None] * self.n_tensors
        for i, bar in zip(where, pull(tuple(u[i] for i in outputs)), strict=True):
            bars[i] = bar if ctx.needs_input_grad[i] else None
        return (*bars, *(None,) * (1 + len(a.rest)))

    def plain(self, a: Arguments) -> tuple[Tensor, ...]:
        _say_plain(self.signature.name)
        maps, parameters = self.operator.modules("reference"), self.parameters(a)
        yr = maps.forward(*a.x, **parameters)
        t_yr = [None] * len(yr)
        if any(t is not None for t in a.t_x):
            t_yr = maps.tangent(*a.x, *yr, *a.t_x, **parameters)
        terms = maps.backward_tangent(*a.x, *yr, *a.g, *a.t_x, *t_yr, *a.t_g, needs=a.needs, **parameters)
        return tuple(or_nothing(t, a.g[0]) for t in terms)


def _lead(tangents: MaybeTensors, of: MaybeTensors) -> list[Tensor | None]:
    """Each tangent with the axis T = 1 in front, in the dtype of its tensor; PyTorch's symbolic zeros become ``None``.

    PyTorch gives a float32 scalar times a Python number a float64 tangent.
    """
    led: list[Tensor | None] = []
    for t, tensor in zip(tangents, of, strict=True):
        if t is None or tensor is None or t._is_zerotensor():
            led.append(None)
        else:
            led.append((t if t.dtype == tensor.dtype else t.to(tensor.dtype)).unsqueeze(0))
    return led


def _only(needs: Sequence[bool], tensors: MaybeTensors) -> list[Tensor | None]:
    return [t if need else None for need, t in zip(needs, tensors, strict=True)]


def _columns(rows: Sequence[Sequence[Tensor]], needs: Sequence[bool]) -> list[list[Tensor]]:
    """By input instead of by tangent; empty for an input that is not needed."""
    return [[row[i] for row in rows] if need else [] for i, need in enumerate(needs)]


def _count(tangents: MaybeTensors) -> int:
    """The number T of tangents."""
    return next(t.shape[0] for t in tangents if t is not None)


def _like(x: Tensor | None, need: bool, like: Tensor | None, lead: tuple[int, ...]) -> Tensor:
    return x.new_empty((*lead, *x.shape)) if need and x is not None else or_nothing(None, like)


def _refuse_residual_cotangents(cotangents: MaybeTensors) -> None:
    if any(c is not None for c in cotangents):
        raise NotImplementedError("alternet: the residuals of an operator are internal, they have no gradient")


def _say_plain(name: str) -> None:
    _say_once(
        f"alternet: this derivative of {name} (forward over forward, or third order) has no kernel; it runs as plain "
        "PyTorch operations, right but with their memory"
    )


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
