"""The generalised Gauss-Newton matrix of a network's loss (Schraudolph 2002), as a linear operator."""

from __future__ import annotations

from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from alternet.analysis.curvature.evaluation import Evaluation
from alternet.analysis.curvature.operator import CurvatureOperator, Engine
from alternet.analysis.curvature.parameters import Named


class GaussNewtonOperator(CurvatureOperator):
    """Jᵀ H J: the Jacobian J of the network's outputs, the Hessian H of the loss in the outputs.

    It is the Hessian without the curvature of the network itself, positive semi-definite where the loss is convex in
    the outputs (cross-entropy, squares), and for cross-entropy the Fisher information matrix. Arguments, products and
    what may be relied on: ``HessianOperator``; ``engine="graph"`` keeps the graph of the outputs, for Jᵀ.

    Raises:
        TypeError: the network's output is not a tensor; parameters of several dtypes.
        ValueError: as ``HessianOperator``.
    """

    def _keeping(self, evaluation: Evaluation) -> Engine:
        return _Sandwich(evaluation, self._parameters.tensors)

    _recomputing = _keeping  # built for one product

    def _graph(self, evaluation: Evaluation) -> object:
        leaves = {name: parameter.detach().requires_grad_() for name, parameter in self._parameters.tensors.items()}
        return evaluation.output(leaves)


class _Sandwich:
    """J forward, H of the loss on the outputs, and Jᵀ backward; the graphs of the last two are kept.

    H is symmetric, so backward over backward multiplies by it too: not every loss has forward derivatives in PyTorch.
    """

    def __init__(self, evaluation: Evaluation, parameters: Named) -> None:
        self._output = evaluation.output
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        output, self._pull, *_ = vjp(self._output, self._parameters)
        if not isinstance(output, Tensor):
            raise TypeError(f"model: expected one output tensor, got {type(output).__name__}")
        _, self._curve, *_ = vjp(grad(evaluation.value), output.detach())

    def product(self, direction: Named) -> Named:
        change = jvp(self._output, (self._parameters,), (direction,))[1]
        return self._pull(*self._curve(change))[0]

    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each; the forward pass is shared."""
        return vmap(self.product, randomness="same")(directions)
