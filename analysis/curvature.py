"""What matrices of second derivatives share: a model's selected parameters as one flat vector, and data as batches."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet.kernels import second_order

Named = dict[str, Tensor]  # tensors by parameter name
Loss = Callable[[Any, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]  # images and targets


class Engine(Protocol):
    """One batch's share of a matrix."""

    def product(self, direction: Named) -> Named: ...
    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each."""


class CurvatureOperator:
    """A symmetric matrix [n, n] in the selected parameters of a model, a mean over batches; known by its products.

    Subclasses say what one batch contributes (``_engine``). The arguments, and what may be relied on, are those of
    ``HessianOperator``.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Batch | Iterable[Batch],
        *,
        params: str | Iterable[str] | None,
        weight_decay: float,
    ) -> None:
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected 0 or more, got {weight_decay}")
        self._parameters = _select(model, params)
        self.dtype, self.device = _common_kind(self._parameters)
        self.weight_decay = weight_decay
        self._shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self.shape = (sum(self._sizes), sum(self._sizes))
        with torch.inference_mode(False):
            self._batches = [tuple(map(self._own_copy, batch)) for batch in _batches(data)]
        counts = [len(images) for images, _ in self._batches]
        self._shares = [count / sum(counts) for count in counts]
        self._kept: Engine | None = None
        if len(self._batches) == 1:
            with plain_arithmetic(self.device):
                self._kept = self._engine(*self._to_device(self._batches[0]))

    def _engine(self, images: Tensor, targets: Tensor) -> Engine:
        raise NotImplementedError

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product [n] with vector: [n], in the operator's dtype and on its device. ValueError for anything else."""
        self._check(vector, 1)
        direction = self.named(vector)
        product = self._mean(lambda engine: self.flatten(engine.product(direction)))
        return product.add_(vector, alpha=self.weight_decay)

    def matmat(self, vectors: Tensor) -> Tensor:
        """The products [n, m] with the columns of vectors: [n, m]."""
        self._check(vectors, 2)
        rows = vectors.t().contiguous()
        directions = dict(self._split(rows))

        def flat(engine: Engine) -> Tensor:
            products = engine.products(directions)
            return torch.cat([products[name].flatten(1) for name in self._shapes], dim=1)

        return self._mean(flat).add_(rows, alpha=self.weight_decay).t()

    def named(self, vector: Tensor) -> Named:
        """Views of vector: [n] by parameter name, in the parameters' shapes."""
        self._check(vector, 1)
        return dict(self._split(vector))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The flat vector [n] of one tensor for every selected parameter; the inverse of ``named``."""
        if tensors.keys() != self._shapes.keys():
            difference = sorted(tensors.keys() ^ self._shapes.keys())
            raise ValueError(f"tensors: names must be those of the selected parameters, these differ: {difference}")
        return torch.cat([tensors[name].reshape(-1) for name in self._shapes])

    def _mean(self, term: Callable[[Engine], Tensor]) -> Tensor:
        """The mean of ``term`` over all images: one batch's graph at a time, and that of a single batch kept."""
        with plain_arithmetic(self.device):
            if self._kept is not None:
                return term(self._kept)
            total: Tensor | None = None
            for share, batch in zip(self._shares, self._batches, strict=True):
                part = term(self._engine(*self._to_device(batch))).mul_(share)
                total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def _split(self, vectors: Tensor) -> Iterator[tuple[str, Tensor]]:
        """vectors: [..., n] -> for every parameter its name and [..., *shape]."""
        for (name, shape), part in zip(self._shapes.items(), vectors.split(self._sizes, dim=-1), strict=True):
            yield name, part.unflatten(-1, shape) if shape else part.squeeze(-1)

    def _own_copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    def _to_device(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device) for tensor in batch)

    def _check(self, vectors: Tensor, axes: int) -> None:
        shape = (self.shape[0], "m")[:axes]
        if not isinstance(vectors, Tensor):
            raise TypeError(f"vector: expected a tensor {list(shape)}, got {type(vectors).__name__}")
        if vectors.dim() != axes or vectors.shape[0] != self.shape[0]:
            raise ValueError(f"vector: expected shape {list(shape)}, got {list(vectors.shape)}")
        if (vectors.dtype, vectors.device) != (self.dtype, self.device):
            raise ValueError(f"vector: expected {self.dtype} on {self.device}, got {vectors.dtype} on {vectors.device}")


def network(model: nn.Module, images: Tensor) -> Callable[[Named], Any]:
    """The model's output as a function of the selected parameters; all others, and copies of buffers, are constants."""

    def output(parameters: Named) -> Any:
        constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        with _measured(model):
            return functional_call(model, {**constants, **buffers, **parameters}, (images,))

    return output


def scalar(value: Any) -> Tensor:
    """``value`` where it is what a loss must be."""
    if not isinstance(value, Tensor) or value.dim() != 0 or not value.is_floating_point():
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected a floating-point scalar, got {got}")
    return value


@contextmanager
def _measured(model: nn.Module) -> Iterator[None]:
    """Eval mode and operators with second derivatives inside; the model as it was afterwards."""
    before = [(module, module.training, vars(module).get("fused_attn")) for module in model.modules()]
    try:
        model.eval()
        for module, _, fused in before:
            if fused is not None:
                vars(module)["fused_attn"] = True  # timm's switch: call PyTorch's function, which is then ours
        with second_order(), sdpa_kernel(SDPBackend.MATH):  # what it does not serve: fused, it is differentiable once
            yield
    finally:
        for module, training, fused in before:
            module.training = training
            if fused is not None:
                vars(module)["fused_attn"] = fused


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """No autocast and no reduced float32 inside: cuDNN's TF32, on by default, costs 1e-3. Gradients in any case."""
    backends: Any = torch.backends
    cudnn, onednn = backends.cudnn, backends.mkldnn
    switches = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False):  # ends no_grad too
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _batches(data: Batch | Iterable[Batch]) -> list[Batch]:
    """One batch or several as a list; drawn once, so that random augmentation is the same in every product."""
    single = isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    batches: list[Any] = [data] if single else list(data)
    if not batches:
        raise ValueError("data: got no batches, expected at least one (images, targets)")
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
            raise TypeError(f"data: expected (images, targets) or batches of them, got {type(batch).__name__}")
        if len(batch[0]) == 0:
            raise ValueError("data: a batch has no images")
    return batches


def _select(model: nn.Module, params: str | Iterable[str] | None) -> Named:
    """The selected parameters in the model's order."""
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
