"""A model's selected parameters as one flat vector, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

Named = dict[str, Tensor]  # tensors by parameter name


class Parameters:
    """Some parameters of a model, in the model's order; ``size`` is the number n of their entries.

    Args:
        model: any module with parameters of one dtype, float32 or float64, on one device.
        params: None for every parameter that requires a gradient; the name of a parameter, or of a module for all
            parameters in it; names of both kinds; or, as one string that is no such name, a regular expression for all
            parameters in whose name it is found. All but None select frozen parameters too. A parameter that several
            modules share goes by any of its names, and counts once, by the first.

    Raises:
        TypeError: the selected parameters are of several dtypes, or of another than float32 and float64; ``params`` is
            neither a string nor strings.
        ValueError: the selection is empty, unknown or no regular expression; parameters are on several devices.
    """

    def __init__(self, model: nn.Module, params: str | Iterable[str] | None) -> None:
        self.tensors = _select(model, params)
        self.dtype, self.device = _common_kind(self.tensors)
        self.shapes = {name: parameter.shape for name, parameter in self.tensors.items()}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self._sizes)

    def split(self, vectors: Tensor) -> Named:
        """vectors: [..., n] -> views [..., *shape] by name."""
        parts = vectors.split(self._sizes, dim=-1)
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def join(self, tensors: Mapping[str, Tensor], lead: tuple[int, ...] = ()) -> Tensor:
        """One [*lead, *shape] for every parameter -> [*lead, n]; the inverse of ``split``."""
        return torch.cat([tensors[name].reshape(*lead, shape.numel()) for name, shape in self.shapes.items()], dim=-1)

    def check_named(self, tensors: Mapping[str, Tensor]) -> int | None:
        """ValueError unless there is one tensor of its shape for every parameter; m if all have one more axis of m."""
        if tensors.keys() != self.shapes.keys():
            difference = sorted(tensors.keys() ^ self.shapes.keys())
            raise ValueError(f"tensors: names must be those of the selected parameters, these differ: {difference}")
        # Whether there are columns, and how many, is what most of them say: a few wrong ones are to be named.
        more = [tuple(tensors[name].shape[len(shape) :]) for name, shape in self.shapes.items()]
        columns = max([(), *(axes for axes in more if len(axes) == 1)], key=more.count)
        for name, shape in self.shapes.items():
            if tensors[name].shape != (*shape, *columns):
                raise ValueError(
                    f"tensors: expected {name!r} in shape {list(shape)}, or all with one more axis, "
                    f"got {list(tensors[name].shape)}"
                )
        return columns[0] if columns else None


def _select(model: nn.Module, params: str | Iterable[str] | None) -> Named:
    everything = dict(model.named_parameters())
    first = {id(parameter): name for name, parameter in everything.items()}
    canonical = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    if params is None:
        chosen = {name for name, parameter in everything.items() if parameter.requires_grad}
        wanted = "that require a gradient"
    elif isinstance(params, str):
        chosen = _inside(params, canonical) or _found(params, canonical)
        wanted = f"with {params!r} in their name"
    else:
        chosen = set().union(*(_named(name, canonical) for name in _names(params)))
        wanted = "named in an empty list"
    if not chosen:
        raise ValueError(f"params: the model has no parameters {wanted}, out of {len(everything)}")
    names = {canonical[name] for name in chosen}
    return {name: parameter for name, parameter in everything.items() if name in names}


def _inside(name: str, known: Collection[str]) -> set[str]:
    """The parameter of that name, or those of the module of that name."""
    return {parameter for parameter in known if parameter == name or parameter.startswith(f"{name}.")}


def _found(pattern: str, known: Collection[str]) -> set[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"params: expected the name of a parameter or module, or a regular expression, got {pattern!r}: {error}"
        ) from error
    return {name for name in known if expression.search(name)}


def _named(name: str, known: Collection[str]) -> set[str]:
    inside = _inside(name, known)
    if not inside:
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(f"params: the model has no parameter or module {name!r}" + (f", but {near}" if near else ""))
    return inside


def _names(params: Iterable[str]) -> list[str]:
    names = list(params) if isinstance(params, Iterable) else [params]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"params: expected None, a string or strings, got {params!r}")
    return names


def _common_kind(parameters: Named) -> tuple[torch.dtype, torch.device]:
    dtypes = {parameter.dtype for parameter in parameters.values()}
    devices = {parameter.device for parameter in parameters.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise TypeError(f"model: expected parameters all float32 or all float64, got {sorted(map(str, dtypes))}")
    if len(devices) > 1:
        raise ValueError(f"model: expected parameters on one device, got {sorted(map(str, devices))}")
    return dtypes.pop(), devices.pop()
