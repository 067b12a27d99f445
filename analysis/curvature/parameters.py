"""A model's selected parameters as one flat vector, and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

Named = dict[str, Tensor]  # tensors by parameter name


class Parameters:
    """Some parameters of a model, in the model's order; ``size`` is the number n of their entries.

    Args:
        model: any module with parameters of one dtype, float32 or float64, on one device.
        params: None for every parameter that requires a gradient; a regular expression, for all parameters in whose
            name it is found; or names. The last two select frozen parameters too.

    Raises:
        TypeError: the selected parameters are of several dtypes, or of another than float32 and float64.
        ValueError: the selection is empty or unknown; parameters are on several devices.
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
        first = next(iter(self.shapes))
        columns = tensors[first].shape[len(self.shapes[first]) :]
        for name, shape in self.shapes.items():
            if len(columns) > 1 or tensors[name].shape != (*shape, *columns):
                raise ValueError(
                    f"tensors: expected {name!r} in shape {list(shape)}, or all with one more axis, "
                    f"got {list(tensors[name].shape)}"
                )
        return columns[0] if columns else None


def _select(model: nn.Module, params: str | Iterable[str] | None) -> Named:
    everything = dict(model.named_parameters())
    if params is None:
        chosen = {name for name, parameter in everything.items() if parameter.requires_grad}
        wanted = "that require a gradient"
    elif isinstance(params, str):
        chosen = {name for name in everything if re.search(params, name)}
        wanted = f"with {params!r} in their name"
    else:
        chosen = set(params)
        wanted = "named in an empty list"
        for name in chosen - everything.keys():
            near = difflib.get_close_matches(name, everything, n=3)
            raise ValueError(f"params: the model has no parameter {name!r}" + (f", but {near}" if near else ""))
    if not chosen:
        raise ValueError(f"params: the model has no parameters {wanted}, out of {len(everything)}")
    return {name: parameter for name, parameter in everything.items() if name in chosen}


def _common_kind(parameters: Named) -> tuple[torch.dtype, torch.device]:
    dtypes = {parameter.dtype for parameter in parameters.values()}
    devices = {parameter.device for parameter in parameters.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise TypeError(f"model: expected parameters all float32 or all float64, got {sorted(map(str, dtypes))}")
    if len(devices) > 1:
        raise ValueError(f"model: expected parameters on one device, got {sorted(map(str, devices))}")
    return dtypes.pop(), devices.pop()
