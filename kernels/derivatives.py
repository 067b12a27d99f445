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
because second derivatives are symmetric. Reverse over forward is the same pair the other way round.

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
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import backends, batching, dispatcher

MaybeTensors = Sequence["Tensor | None"]


@dataclass(frozen=True)
class Signature:
    """What the glue must know about an operator besides its four maps.

    Attributes:
        name: the operator's folder; its ops are ``alternet::<name>_forward`` and so on.
        inputs: names of the differentiable inputs x, in order.
        optional: how many of the last inputs may be ``None``.
        residuals: names of r.
        parameters: (schema type, name) of the arguments that are not tensors; keyword arguments of every map.
        fake: shapes of the results, ``fake(*x, **parameters) -> (y, *r)`` on fake tensors.
        batch_shapes: shapes of x once every input has the whole batch as its axis 0 (a broadcast bias, say), so that
            ``vmap`` can fold one more axis into it. y and r always have it there.
        constants: names of those of x that nothing is differentiated by (class indices, say, which no derivative can
            reach): asking for one is an error.
        needs_output: whether the later maps read y and y'. Where they do not, the first of x is kept and given in y's
            place, and nothing in that of y': they take no memory then, and may be changed in place, as networks do with
            what a norm returns.
    """

    name: str
    inputs: tuple[str, ...]
    optional: int
    residuals: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    fake: Callable[..., tuple[Tensor, ...]]
    batch_shapes: Callable[[Sequence[torch.Size | None]], Sequence[torch.Size | None]]
    constants: tuple[str, ...] = ()
    needs_output: bool = True


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


@dataclass
class _Arguments:
    """An op's flat arguments by role; ``t_`` are tangents, the primes of the text above."""

    x: MaybeTensors = ()
    yr: MaybeTensors = ()
    g: MaybeTensors = ()
    t_x: MaybeTensors = ()
    t_yr: MaybeTensors = ()
    t_g: MaybeTensors = ()
    needs: Sequence[bool] = ()
    rest: tuple = ()  # the operator's parameters, then the backend's name

    @property
    def tensors(self) -> MaybeTensors:
        return (*self.x, *self.yr, *self.g, *self.t_x, *self.t_yr, *self.t_g)


class _Map:
    """One of the four maps as an op of the dispatcher; subclasses give its shapes and derivatives."""

    name: str
    groups: tuple[str, ...]  # which fields of _Arguments its tensor arguments are, in order
    returns_gradients = False  # one result for each of x, and the argument ``needs``

    def __init__(self, operator: Operator) -> None:
        self.operator, self.signature = operator, operator.signature
        self.n, self.n_yr = len(self.signature.inputs), 1 + len(self.signature.residuals)
        sizes = {"x": self.n, "yr": self.n_yr, "g": 1, "t_x": self.n, "t_yr": self.n_yr, "t_g": 1}
        self.sizes = [(group, sizes[group]) for group in self.groups]
        self.n_primal = sum(size for group, size in self.sizes if not group.startswith("t_"))
        self.n_tensors = sum(size for _, size in self.sizes)
        self.keywords = (*["needs"] * self.returns_gradients, *(name for _, name in self.signature.parameters))
        self.op = dispatcher.define(
            self._schema(),
            kernel=self._kernel,
            fake=lambda *args: tuple(self.fake(self.parse(args))),
            vmap=self._vmap,
            rules=self.rules(),
            plain=lambda *args: self.plain(self.parse(args)),
        )

    def fake(self, a: _Arguments) -> Sequence[Tensor]:
        raise NotImplementedError

    def rules(self) -> dispatcher.Rules:
        raise NotImplementedError

    def plain(self, a: _Arguments) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def parse(self, args: Sequence[Any]) -> _Arguments:
        fields: dict[str, Any] = {}
        start = 0
        for group, size in self.sizes:
            fields[group] = tuple(args[start : start + size])
            start += size
        if self.returns_gradients:
            fields["needs"] = tuple(args[start])
            start += 1
        a = _Arguments(rest=tuple(args[start:]), **fields)
        if self.signature.constants:
            self._refuse_constants(a)
        return a

    def _refuse_constants(self, a: _Arguments) -> None:
        for name in self.signature.constants:
            i = self.signature.inputs.index(name)
            if (a.needs and a.needs[i]) or (a.t_x and a.t_x[i] is not None):
                raise NotImplementedError(
                    f"alternet: {self.signature.name} has no derivative with respect to {name}; detach it"
                )

    def save(self, ctx: Any, args: tuple, results: tuple) -> None:
        kept = args[: self.n_tensors] if self.returns_gradients else args[: self.n_tensors] + tuple(results)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.others = args[self.n_tensors :]

    def saved(self, ctx: Any) -> tuple[_Arguments, MaybeTensors]:
        """The arguments and, where the op returns y and r, its results."""
        tensors = ctx.saved_tensors
        return self.parse((*tensors[: self.n_tensors], *ctx.others)), tensors[self.n_tensors :]

    def cotangents(self, **by_group: MaybeTensors) -> tuple[Tensor | None, ...]:
        """One entry for every argument of the op, ``None`` for the groups that are not named."""
        grads = [g for group, size in self.sizes for g in by_group.get(group, (None,) * size)]
        return (*grads, *(None,) * (self.returns_gradients + len(self.signature.parameters) + 1))

    def joint_map(self, a: _Arguments, t_x: MaybeTensors) -> Callable[..., tuple] | None:
        """This map and its tangent in one call, if x moves: the backend's own, or one after the other.

        Even so the tangent is spared a walk through the levels, 0.1 to 0.3 ms.
        """
        moves = [t is not None for t in t_x]
        constants = any(moves[self.signature.inputs.index(name)] for name in self.signature.constants)
        if constants or not any(moves):
            return None
        assert a.x[0] is not None
        module = self.operator.modules(backends.resolve(a.rest[-1], a.x[0]))
        return getattr(module, f"{self.name}_and_tangent", None) or functools.partial(self.in_turn, module)

    def in_turn(self, module: ModuleType, *tensors: Tensor | None, **parameters: Any) -> tuple:
        raise NotImplementedError

    def parameters(self, a: _Arguments) -> dict[str, Any]:
        return {name: value for (_, name), value in zip(self.signature.parameters, a.rest, strict=False)}

    def _schema(self) -> str:
        x, yr = self.signature.inputs, ("y", *self.signature.residuals)
        names = {"x": x, "yr": yr, "g": ("g",)}
        optional = x[self.n - self.signature.optional :]
        arguments = []
        for group, _ in self.sizes:
            primed = group.startswith("t_")
            for name in names[group.removeprefix("t_")]:
                arguments.append(f"Tensor? t_{name}" if primed else f"Tensor{'?' * (name in optional)} {name}")
        arguments += ["bool[] needs"] * self.returns_gradients
        arguments += [f"{kind} {name}" for kind, name in self.signature.parameters]
        results = ", ".join(["Tensor"] * (self.n if self.returns_gradients else self.n_yr))
        return f"{self.signature.name}_{self.name}({', '.join(arguments)}, str backend) -> ({results})"

    def _kernel(self, *args: Any) -> tuple[Tensor, ...]:
        if self.signature.constants:
            self.parse(args)  # refuses derivatives by them
        keywords = dict(zip(self.keywords, args[self.n_tensors : -1], strict=True))
        module = self.operator.modules(backends.resolve(args[-1], args[0]))
        results = getattr(module, self.name)(*args[: self.n_tensors], **keywords)
        return tuple([_or_nothing(t, args[0]) for t in results]) if self.returns_gradients else results

    def _vmap(self, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        tensors, dims = args[: self.n_tensors], in_dims[: self.n_tensors]
        shapes = self.signature.batch_shapes
        fold = batching.Fold(info.batch_size, tensors, dims, self.n, self.n_primal, shapes)
        outputs = self.op(*fold.arguments(), *args[self.n_tensors :])
        return fold.results(outputs, args[self.n_tensors] if self.returns_gradients else None)


class _Forward(_Map):
    name, groups = "forward", ("x",)

    def save(self, ctx: Any, args: tuple, results: tuple) -> None:
        if not self.signature.needs_output:
            results = (args[0], *results[1:])
        super().save(ctx, args, results)

    def fake(self, a: _Arguments) -> Sequence[Tensor]:
        return self.signature.fake(*a.x, **self.parameters(a))

    def rules(self) -> dispatcher.Rules:
        return dispatcher.Rules(self.save, self.reverse, self.push, self.joint)

    def joint(self, args: tuple, tangents: MaybeTensors) -> tuple[tuple, tuple] | None:
        a = self.parse(args)
        t_x = _lead(tangents[: self.n], a.x)
        both = self.joint_map(a, t_x)
        if both is None:
            return None
        results = both(*a.x, *t_x, **self.parameters(a))
        return results[: self.n_yr], tuple(t[0] for t in results[self.n_yr :])

    def in_turn(self, module: ModuleType, *tensors: Tensor | None, **parameters: Any) -> tuple:
        x, t_x = tensors[: self.n], tensors[self.n :]
        yr = module.forward(*x, **parameters)
        kept = yr if self.signature.needs_output else (x[0], *yr[1:])
        return (*yr, *module.tangent(*x, *kept, *t_x, **parameters))

    def reverse(self, ctx: Any, g: Tensor | None, *r_bar: Tensor | None) -> tuple:
        _refuse_residual_cotangents(r_bar)
        if g is None:
            return self.cotangents()
        a, yr = self.saved(ctx)
        needs = ctx.needs_input_grad[: self.n]
        return self.cotangents(x=_only(needs, self.operator.backward(*a.x, *yr, g, needs, *a.rest)))

    def push(self, ctx: Any, *tangents: Tensor | None) -> tuple:
        a, yr = self.saved(ctx)
        t_yr = self.operator.tangent(*a.x, *yr, *_lead(tangents[: self.n], a.x), *a.rest)
        return tuple(t[0] for t in t_yr)


class _Tangent(_Map):
    name, groups = "tangent", ("x", "yr", "t_x")

    def save(self, ctx: Any, args: tuple, results: tuple) -> None:
        if not self.signature.needs_output:
            results = (None, *results[1:])
        super().save(ctx, args, results)

    def fake(self, a: _Arguments) -> Sequence[Tensor]:
        count = _count(a.t_x)
        return [t.new_empty((count, *t.shape)) for t in self.signature.fake(*a.x, **self.parameters(a))]

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

    def plain(self, a: _Arguments) -> tuple[Tensor, ...]:
        _say_plain(self.signature.name)
        maps, parameters = self.operator.modules("reference"), self.parameters(a)
        return maps.tangent(*a.x, *maps.forward(*a.x, **parameters), *a.t_x, **parameters)


class _Backward(_Map):
    name, groups = "backward", ("x", "yr", "g")
    returns_gradients = True

    def fake(self, a: _Arguments) -> Sequence[Tensor]:
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
        results = both(*a.tensors, *t, needs=a.needs, **self.parameters(a))
        bars = [_or_nothing(t, a.g[0]) for t in results]
        return tuple(bars[: self.n]), tuple(t[0] if n else t for n, t in zip(a.needs, bars[self.n :], strict=True))

    def in_turn(self, module: ModuleType, *tensors: Tensor | None, **parameters: Any) -> tuple:
        bars = module.backward(*tensors[: self.n_tensors], **parameters)
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
        if any(needs):
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
        read = t_yr if self.signature.needs_output else t_yr[1:]
        if all(t is None for t in t_x):
            t_yr = [None] * self.n_yr
        elif any(t is None for t in read):  # y and r came from elsewhere: their tangents still follow from x'
            t_yr = self.operator.tangent(*a.x, *a.yr, *t_x, *a.rest)
        terms = self.operator.backward_tangent(*a.tensors, *t_x, *t_yr, *t_g, a.needs, *a.rest)
        return tuple(t[0] if need else t for need, t in zip(a.needs, terms, strict=True))


class _BackwardTangent(_Map):
    name, groups = "backward_tangent", ("x", "yr", "g", "t_x", "t_yr", "t_g")
    returns_gradients = True

    def fake(self, a: _Arguments) -> Sequence[Tensor]:
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

    def plain(self, a: _Arguments) -> tuple[Tensor, ...]:
        _say_plain(self.signature.name)
        maps, parameters = self.operator.modules("reference"), self.parameters(a)
        yr = maps.forward(*a.x, **parameters)
        t_yr = [None] * self.n_yr
        if any(t is not None for t in a.t_x):
            t_yr = maps.tangent(*a.x, *yr, *a.t_x, **parameters)
        terms = maps.backward_tangent(*a.x, *yr, *a.g, *a.t_x, *t_yr, *a.t_g, needs=a.needs, **parameters)
        return tuple(_or_nothing(t, a.g[0]) for t in terms)


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


def _or_nothing(tensor: Tensor | None, like: Tensor | None) -> Tensor:
    """An op returns tensors only: a result that nobody needs is an empty one."""
    assert like is not None
    return like.new_empty(0) if tensor is None else tensor


def _like(x: Tensor | None, need: bool, like: Tensor | None, lead: tuple[int, ...]) -> Tensor:
    return x.new_empty((*lead, *x.shape)) if need and x is not None else _or_nothing(None, like)


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
