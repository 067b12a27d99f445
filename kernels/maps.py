"""One of an operator's four maps as an op of the dispatcher: its arguments, its schema, its backend, its batching rule.

What each map's derivatives are is in ``derivatives.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backends, batching, dispatcher, flops

if TYPE_CHECKING:
    from .derivatives import Operator

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
        flops: operations of the matrix products of a map, where it has some (``flops.py``).
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
    flops: flops.Formula | None = None


@dataclass
class Arguments:
    """An op's flat arguments by role; ``t_`` are tangents, the primes of ``derivatives.py``."""

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


class Map:
    """One of the four maps as an op of the dispatcher; subclasses give its shapes and derivatives.

    Autograd is to see that a node of ``backward`` comes before that of ``forward`` (``pending.py``). Where the later
    maps have neither y nor r as inputs, the ops are ``linked``: they have a tensor without entries as r, of which the
    backends know nothing.
    """

    name: str
    groups: tuple[str, ...]  # which fields of Arguments its tensor arguments are, in order
    returns_gradients = False  # one result for each of x, and the argument ``needs``
    batch_axis = 0  # of the results

    def __init__(self, operator: Operator) -> None:
        self.operator, self.signature = operator, operator.signature
        self.residuals = self.signature.residuals
        self.linked = not self.residuals and not self.signature.needs_output
        if self.linked:
            self.residuals = ("link",)
        self.n, self.n_yr = len(self.signature.inputs), 1 + len(self.residuals)
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
        if self.signature.flops is not None:
            packet = getattr(torch.ops.alternet, f"{self.signature.name}_{self.name}")
            flops.register(packet, functools.partial(self._flops, self.signature.flops))

    def fake(self, a: Arguments) -> Sequence[Tensor]:
        raise NotImplementedError

    def rules(self) -> dispatcher.Rules:
        raise NotImplementedError

    def plain(self, a: Arguments) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def parse(self, args: Sequence[Any]) -> Arguments:
        fields: dict[str, Any] = {}
        start = 0
        for group, size in self.sizes:
            fields[group] = tuple(args[start : start + size])
            start += size
        if self.returns_gradients:
            fields["needs"] = tuple(args[start])
            start += 1
        a = Arguments(rest=tuple(args[start:]), **fields)
        if self.signature.constants:
            self._refuse_constants(a)
        return a

    def _refuse_constants(self, a: Arguments) -> None:
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

    def saved(self, ctx: Any) -> tuple[Arguments, MaybeTensors]:
        """The arguments and, where the op returns y and r, its results."""
        tensors = ctx.saved_tensors
        return self.parse((*tensors[: self.n_tensors], *ctx.others)), tensors[self.n_tensors :]

    def cotangents(self, **by_group: MaybeTensors) -> tuple[Tensor | None, ...]:
        """One entry for every argument of the op, ``None`` for the groups that are not named."""
        grads = [g for group, size in self.sizes for g in by_group.get(group, (None,) * size)]
        return (*grads, *(None,) * (self.returns_gradients + len(self.signature.parameters) + 1))

    def joint_map(self, a: Arguments, t_x: MaybeTensors) -> Callable[..., tuple] | None:
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

    def parameters(self, a: Arguments) -> dict[str, Any]:
        return {name: value for (_, name), value in zip(self.signature.parameters, a.rest, strict=False)}

    def _flops(self, formula: flops.Formula, args: Sequence[Any]) -> int:
        """Of a call, shapes in place of tensors."""
        a: Any = self.parse(args)
        moved = [*a.t_x, *a.t_g]
        call = flops.Call(
            map=self.name,
            x=[shape or () for shape in a.x],
            needs=a.needs,
            t_x=[shape is not None for shape in a.t_x],
            t_grad=any(shape is not None for shape in a.t_g),
            tangents=next((shape[0] for shape in moved if shape is not None), 1),
            parameters=self.parameters(a),
        )
        return formula(call)

    def _schema(self) -> str:
        x, yr = self.signature.inputs, ("y", *self.residuals)
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
        results = getattr(module, self.name)(*self.unlinked(args[: self.n_tensors]), **keywords)
        return tuple([or_nothing(t, args[0]) for t in results]) if self.returns_gradients else self.with_link(results)

    def unlinked(self, tensors: MaybeTensors) -> MaybeTensors:
        """An op's tensors as a backend takes them."""
        if not self.linked:
            return tensors
        kept: list[Tensor | None] = []
        start = 0
        for group, size in self.sizes:
            kept += tensors[start : start + size - (group in ("yr", "t_yr"))]
            start += size
        return kept

    def with_link(self, yr: tuple) -> tuple:
        """A backend's y and r as an op returns them."""
        return (*yr, yr[0].new_empty((*yr[0].shape[: self.batch_axis + 1], 0))) if self.linked else yr

    def _vmap(self, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        tensors, dims = args[: self.n_tensors], in_dims[: self.n_tensors]
        shapes = self.signature.batch_shapes
        fold = batching.Fold(info.batch_size, tensors, dims, self.n, self.n_primal, shapes)
        outputs = self.op(*fold.arguments(), *args[self.n_tensors :])
        return fold.results(outputs, args[self.n_tensors] if self.returns_gradients else None)


def or_nothing(tensor: Tensor | None, like: Tensor | None) -> Tensor:
    """An op returns tensors only: a result that nobody needs is an empty one."""
    assert like is not None
    return like.new_empty(0) if tensor is None else tensor
