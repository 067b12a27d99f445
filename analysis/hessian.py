"""The Hessian of a network's mini-batch loss, as a linear operator.

Two of the ways to combine PyTorch's derivatives serve as engines: double backward with the gradient's graph kept, and
forward over reverse, jvp(grad). Both agree with float64 double backward to rounding. (``jvp(jacrev)`` and
``grad(jvp)`` are silently wrong through LayerNorm and BatchNorm in torch 2.14.)
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from alternet.kernels import second_order

Named = dict[str, Tensor]  # tensors by parameter name


class HessianOperator:
    """The Hessian of ``loss(model(images), targets)`` in the selected parameters: symmetric, [n, n].

    ``op @ v`` multiplies a flat vector [n], ``op.matmat(V)`` the columns of [n, m]; ``op.named`` and ``op.flatten`` go
    between flat vectors and tensors by parameter name. Parameters that the loss does not use have zero rows.

    The model is measured in eval mode (running statistics, no dropout, no drop path) and given back as it came, also
    when something raises: modes, gradients, buffers. Arithmetic is that of the parameters' dtype,
    whatever autocast and TF32 are set to. The weights must not change while the operator is in use.

    Args:
        model: any module with parameters of one dtype, float32 or float64, on one device.
        loss: ``loss(output, targets)`` -> scalar; with a mean over the batch this is the paper's mini-batch loss.
        batch: ``(images, targets)``, copied to the model's device; what is floating-point takes the model's dtype.
        params: None for every parameter that requires a gradient; a regular expression, for all parameters in whose
            name it is found; or names. The last two select frozen parameters too.
        weight_decay: adds ½·weight_decay·‖w‖² over the selected parameters, which shifts every eigenvalue by it.
        engine: "graph" keeps the graph of one gradient: fewest operations per product, most memory. "jvp" keeps nothing
            and recomputes in every product, once for all columns of a ``matmat``.

    Raises:
        TypeError: parameters are of several dtypes, or of another than float32 and float64.
        ValueError: an argument out of range; a selection that is empty or unknown; a loss that is not a scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Tensor], Tensor],
        batch: tuple[Tensor, Tensor],
        *,
        params: str | Iterable[str] | None = None,
        weight_decay: float = 0.0,
        engine: str = "graph",
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine: expected one of {sorted(ENGINES)}, got {engine!r}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay: expected 0 or more, got {weight_decay}")
        parameters = _select(model, params)
        self.dtype, self.device = _common_kind(parameters)
        self.weight_decay = weight_decay
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self.shape = (sum(self._sizes), sum(self._sizes))
        with _plain_arithmetic(self.device):
            images, targets = (self._own_copy(tensor) for tensor in batch)
            self._engine = ENGINES[engine](_objective(model, loss, images, targets), parameters)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H v: [n] for vector: [n], in the operator's dtype and on its device. Raises ValueError for anything else."""
        self._check(vector, 1)
        with _plain_arithmetic(self.device):
            product = self.flatten(self._engine.product(self.named(vector)))
        return product.add_(vector, alpha=self.weight_decay)

    def matmat(self, vectors: Tensor) -> Tensor:
        """H V: [n, m] for the columns of vectors: [n, m]."""
        self._check(vectors, 2)
        directions = vectors.t().contiguous()
        with _plain_arithmetic(self.device):
            products = self._engine.products(dict(self._split(directions)))
        flat = torch.cat([products[name].flatten(1) for name in self._shapes], dim=1)
        return flat.add_(directions, alpha=self.weight_decay).t()

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

    def _split(self, vectors: Tensor) -> Iterator[tuple[str, Tensor]]:
        """vectors: [..., n] -> for every parameter its name and [..., *shape]."""
        for (name, shape), part in zip(self._shapes.items(), vectors.split(self._sizes, dim=-1), strict=True):
            yield name, part.unflatten(-1, shape) if shape else part.squeeze(-1)

    def _own_copy(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(self.device, dtype, copy=True)

    def _check(self, vectors: Tensor, axes: int) -> None:
        shape = (self.shape[0], "m")[:axes]
        if not isinstance(vectors, Tensor):
            raise TypeError(f"vector: expected a tensor {list(shape)}, got {type(vectors).__name__}")
        if vectors.dim() != axes or vectors.shape[0] != self.shape[0]:
            raise ValueError(f"vector: expected shape {list(shape)}, got {list(vectors.shape)}")
        if (vectors.dtype, vectors.device) != (self.dtype, self.device):
            raise ValueError(f"vector: expected {self.dtype} on {self.device}, got {vectors.dtype} on {vectors.device}")


class _KeptGraph:
    """Double backward: differentiates the gradient, whose graph is built once, along every direction."""

    def __init__(self, objective: Callable[[Named], Tensor], parameters: Named) -> None:
        self._leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        leaves = list(self._leaves.values())
        value = objective(self._leaves)
        used = value.requires_grad
        gradient = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True) if used else ()
        # What does not depend on the parameters (unused, or linear in the loss) is no row of the Hessian to compute.
        self._gradient = {
            name: slope
            for name, slope in zip(self._leaves, gradient, strict=used)
            if slope is not None and slope.requires_grad
        }

    def product(self, direction: Named) -> Named:
        if not self._gradient:
            return {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        rows = torch.autograd.grad(
            list(self._gradient.values()),
            list(self._leaves.values()),
            [direction[name] for name in self._gradient],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._leaves, rows, strict=True))

    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each. One by one: the graph is there already, and vmap gains nothing over it."""
        count = len(next(iter(directions.values())))
        each = [self.product({name: rows[i] for name, rows in directions.items()}) for i in range(count)]
        return {name: torch.stack([rows[name] for rows in each]) for name in directions}


class _ForwardOverReverse:
    """jvp(grad): the gradient's derivative along a direction, recomputed from the weights in every call."""

    def __init__(self, objective: Callable[[Named], Tensor], parameters: Named) -> None:
        self._gradient = grad(objective)
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}

    def product(self, direction: Named) -> Named:
        return jvp(self._gradient, (self._parameters,), (direction,))[1]

    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each; vmap shares what does not depend on the direction."""
        return vmap(self.product)(directions)


ENGINES: dict[str, type[_KeptGraph] | type[_ForwardOverReverse]] = {"graph": _KeptGraph, "jvp": _ForwardOverReverse}


def _objective(
    model: nn.Module, loss: Callable[[Any, Tensor], Tensor], images: Tensor, targets: Tensor
) -> Callable[[Named], Tensor]:
    """The loss as a function of the selected parameters; all others, and copies of the buffers, are constants."""

    def value(parameters: Named) -> Tensor:
        constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        with _measured(model):
            result = loss(functional_call(model, {**constants, **buffers, **parameters}, (images,)), targets)
        if not isinstance(result, Tensor) or result.dim() != 0 or not result.is_floating_point():
            got = f"shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"loss: expected a floating-point scalar, got {got}")
        return result

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
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
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
