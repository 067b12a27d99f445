"""The generalised Gauss-Newton matrix of a network's loss (Schraudolph 2002), as a linear operator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap

from alternet.analysis.curvature import Batch, CurvatureOperator, Engine, Loss, Named, network, scalar


class GaussNewtonOperator(CurvatureOperator):
    """Jᵀ H J: the Jacobian J of the network's outputs, the Hessian H of the loss in the outputs.

    It is the Hessian without the curvature of the network itself, positive semi-definite where the loss is convex in
    the outputs (cross-entropy, squares), and for cross-entropy the Fisher information matrix. Arguments, products and
    what may be relied on: ``HessianOperator``.

    Raises:
        TypeError: the network's output is not a tensor; parameters of several dtypes.
        ValueError: as ``HessianOperator``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Batch | Iterable[Batch],
        *,
        params: str | Iterable[str] | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        self._model, self._loss = model, loss
        super().__init__(model, data, params=params, weight_decay=weight_decay)

    def _engine(self, images: Tensor, targets: Tensor) -> Engine:
        return _Sandwich(network(self._model, images), self._loss, targets, self._parameters)


class _Sandwich:
    """J forward, H of the loss on the outputs, and Jᵀ backward through a graph that is kept."""

    def __init__(self, output: Any, loss: Loss, targets: Tensor, parameters: Named) -> None:
        self._output = output
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        value, self._pull, *_ = vjp(output, self._parameters)
        if not isinstance(value, Tensor):
            raise TypeError(f"model: expected one output tensor, got {type(value).__name__}")
        self._value = value.detach()
        self._slope = grad(lambda outputs: scalar(loss(outputs, targets)))

    def product(self, direction: Named) -> Named:
        change = jvp(self._output, (self._parameters,), (direction,))[1]
        return self._pull(jvp(self._slope, (self._value,), (change,))[1])[0]

    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each; the forward pass is shared."""
        return vmap(self.product)(directions)
