"""The Hessian of a network's loss over some data, as a linear operator.

Two of the ways to combine PyTorch's derivatives serve as engines: double backward with the gradient's graph kept, and
forward over reverse, jvp(grad). Both agree with float64 double backward to rounding. (``jvp(jacrev)`` and
``grad(jvp)`` are silently wrong through LayerNorm and BatchNorm in torch 2.14.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.func import grad, jvp, vmap

from alternet.analysis.curvature.evaluation import Evaluation
from alternet.analysis.curvature.operator import CurvatureOperator, Engine
from alternet.analysis.curvature.parameters import Named

Objective = Callable[[Named], Tensor]


class HessianOperator(CurvatureOperator):
    """The Hessian of ``loss(model(images), targets)`` in the selected parameters: symmetric, [n, n].

    ``op @ v`` multiplies a flat vector [n] or tensors by parameter name, ``op.matmat(V)`` columns [n, m] of them;
    ``op.named`` and ``op.flatten`` go from one form to the other. Parameters that the loss does not use have zero rows.

    The model is given back as it came, also when something raises: modes, gradients, buffers; random generators, too.
    Arithmetic is that of the parameters' dtype, whatever autocast and TF32 are set to. The weights must not change
    while the operator is in use.

    Args:
        model: any module with parameters of one dtype, float32 or float64, on one device.
        loss: ``loss(output, targets)`` -> scalar. Over several batches or micro-batches it must be a mean over images,
            as most losses are by default; with one batch this is the paper's mini-batch loss. A sum is refused; a mean
            that weighs images otherwise (weights of classes, targets that are ignored) is not always noticed, and over
            batches neither is what the loss does to several outputs.
        data: ``(images, targets)``, or an iterable of such batches. Drawn and copied once, so that the matrix is fixed
            and symmetric whatever augments them; what they draw from the global generators (Python's, NumPy's, torch's)
            is fixed by ``seed``, what a loader's own generator gives is not. Floating-point tensors take the model's
            dtype. Several batches give the mean over all images, each weighted by its own number; one of them at a time
            is on the model's device.
        params: None for every parameter that requires a gradient; the name of a parameter, or of a module for all
            parameters in it; names of both kinds; or, as one string that is no such name, a regular expression for all
            parameters in whose name it is found. All but None select frozen parameters too. A parameter that several
            modules share goes by any of its names, and counts once, by the first.
        weight_decay: adds ½·weight_decay·‖w‖² over the selected parameters, which shifts every eigenvalue by it.
        micro_batch: at most so many images at a time, which bounds the memory of a product; the matrix is the same.
        engine: "graph" keeps the graph of the gradient: fewest operations per product, most memory; of several
            micro-batches all graphs are kept if they fit, else each is built in turn. "jvp" keeps nothing and
            recomputes in every product, once for as many columns of a ``matmat`` as fit. "auto" takes "graph" if all
            graphs fit into half of the memory that is available, by the bytes that those of two and of four images
            keep. ``op.engine`` is what was taken.
        batch_norm: "running" normalises by running statistics; "batch" by those of each batch, as in training, and
            differentiates through them. Buffers are untouched.
        dropout: "off" measures the network in eval mode; "frozen" in training mode, with masks of dropout and drop
            path drawn from ``seed`` that are the same in every product.
        seed: of frozen masks, by the number of the micro-batch, and of what ``data`` draws.

    Raises:
        TypeError: parameters are of several dtypes, or of another than float32 and float64; ``data``, ``params`` or
            ``micro_batch`` of another kind.
        ValueError: an argument out of range; a selection that is empty or unknown; no images; a loss that is no scalar
            or, for ``micro_batch`` or several batches, no mean; ``micro_batch`` would divide the statistics of a batch.
            Products by "jvp" of operations whose gradients have no forward derivative in PyTorch (``huber_loss``,
            ``soft_margin_loss``).
    """

    def _keeping(self, evaluation: Evaluation) -> Engine:
        return _KeptGraph(evaluation.objective, self._parameters.tensors)

    def _recomputing(self, evaluation: Evaluation) -> Engine:
        return _ForwardOverReverse(evaluation.objective, self._parameters.tensors)

    _graph = _keeping


class _KeptGraph:
    """Double backward: differentiates the gradient, whose graph is built once, along every direction."""

    def __init__(self, objective: Objective, parameters: Named) -> None:
        self._leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        leaves = list(self._leaves.values())
        value = objective(self._leaves)
        used = value.requires_grad
        gradient = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True) if used else ()
        # What does not depend on the parameters (unused, or linear in the loss) is no row of the Hessian to compute.
        # An edge of the graph serves as well as the slope, whose values nothing needs.
        self._gradient = {
            name: get_gradient_edge(slope)
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

    def __init__(self, objective: Objective, parameters: Named) -> None:
        self._gradient = grad(objective)
        self._parameters = {name: parameter.detach() for name, parameter in parameters.items()}

    def product(self, direction: Named) -> Named:
        with _naming_the_engine():
            return jvp(self._gradient, (self._parameters,), (direction,))[1]

    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each; vmap shares what does not depend on the direction."""
        return vmap(self.product, randomness="same")(directions)


@contextmanager
def _naming_the_engine() -> Iterator[None]:
    """Where PyTorch has no forward derivative of a gradient, which it says in words of its own, the way out."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("forward AD", "ZeroTensors are immutable")):
            raise
        raise ValueError(
            'engine="jvp" needs forward derivatives of the gradient, which PyTorch lacks for an operation of the '
            f'model or the loss; engine="graph" does without them: {error}'
        ) from error
