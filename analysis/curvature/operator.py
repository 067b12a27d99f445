"""What matrices of second derivatives share: vectors, the mean over micro-batches, and the choice of an engine."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, overload

import torch
from torch import Tensor, nn

from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.curvature.evaluation import (
    Conditions,
    Evaluation,
    Loss,
    check_mean,
    check_mean_of_batches,
    check_separable,
)
from alternet.analysis.curvature.graph_memory import available_bytes, predicted_bytes
from alternet.analysis.curvature.micro_batches import Batch, micro_batches
from alternet.analysis.curvature.parameters import Named, Parameters
from alternet.analysis.curvature.scipy_operator import scipy_operator
from alternet.analysis.curvature.symmetry import Symmetry, check_network, check_symmetry
from alternet.analysis.training.seeding import seeded

ENGINES = ("auto", "graph", "jvp")
SHARE = 0.5  # of the available memory for graphs; a product's own tensors and the solver's vectors need the rest


def add_decay(product: Tensor, vectors: Tensor, weight_decay: float) -> Tensor:
    """The product with the L2 term's added: a pass over vectors is some percent of a small network's product."""
    return product.add_(vectors, alpha=weight_decay) if weight_decay else product


class Engine(Protocol):
    """One micro-batch's share of a matrix."""

    def product(self, direction: Named) -> Named: ...
    def products(self, directions: Named) -> Named:
        """directions: [m, *shape] each."""


class CurvatureOperator:
    """A symmetric matrix [n, n] in the selected parameters of a model, a mean over images; known by its products.

    Subclasses say what one micro-batch contributes. The arguments, and what may be relied on, are those of
    ``HessianOperator``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Batch | Iterable[Batch],
        *,
        params: str | Iterable[str] | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
        engine: str = "auto",
        batch_norm: str = "running",
        dropout: str = "off",
        seed: int = 0,
    ) -> None:
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected a finite number, 0 or more, got {weight_decay}")
        if engine not in ENGINES:
            raise ValueError(f"engine: expected one of {list(ENGINES)}, got {engine!r}")
        conditions = Conditions(batch_norm, dropout, seed)
        self._parameters = Parameters(model, params)
        self.dtype, self.device = self._parameters.dtype, self._parameters.device
        self.shape = (self._parameters.size, self._parameters.size)
        self.weight_decay = weight_decay
        with seeded(seed, "data", device=self.device):  # loaders that augment or shuffle draw now
            pieces = micro_batches(data, micro_batch, self.dtype)
        self._evaluations = [
            Evaluation(model, loss, *piece, self.device, conditions, number) for number, piece in enumerate(pieces)
        ]
        if len(pieces) == 1:
            self._evaluations = [self._evaluations[0].on_device()]
        self._check_pieces(micro_batch is not None)
        self._choose(engine)

    # What one micro-batch contributes: for subclasses to say.

    def _keeping(self, evaluation: Evaluation) -> Engine:
        """An engine that keeps a graph, built once for any number of products."""
        raise NotImplementedError

    def _recomputing(self, evaluation: Evaluation) -> Engine:
        """An engine that keeps nothing."""
        raise NotImplementedError

    def _graph(self, evaluation: Evaluation) -> Any:
        """A holder of the graph that ``_keeping`` keeps, built without ``torch.func``, so that it can be measured."""
        raise NotImplementedError

    # Products.

    @overload
    def __matmul__(self, vector: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, vector: Mapping[str, Tensor]) -> Named: ...
    def __matmul__(self, vector: Tensor | Mapping[str, Tensor]) -> Tensor | Named:
        """The product with one vector: a flat tensor [n], or tensors by parameter name, in the parameters' shapes.

        The result is of the same kind. A vector must be in the operator's dtype and on its device. To autograd products
        are constants: nothing is differentiated through them, whether or not the vector requires a gradient.

        Raises:
            TypeError: the vector is neither a tensor nor tensors by name.
            ValueError: names, a shape, the dtype or the device do not fit.
        """
        if isinstance(vector, Mapping):
            return self.named(self @ self.flatten(vector))
        self._check(vector, 1)
        vector = vector.detach()  # else the result's derivative would be the weight decay's alone
        direction = self._parameters.split(vector)
        return add_decay(
            self._mean(lambda engine: self._parameters.join(engine.product(direction))), vector, self.weight_decay
        )

    @overload
    def matmat(self, vectors: Tensor) -> Tensor: ...
    @overload
    def matmat(self, vectors: Mapping[str, Tensor]) -> Named: ...
    def matmat(self, vectors: Tensor | Mapping[str, Tensor]) -> Tensor | Named:
        """The products with the columns of vectors: [n, m], or [*shape, m] by name. Errors as for one vector."""
        if isinstance(vectors, Mapping):
            return self.named(self.matmat(self.flatten(vectors)))
        self._check(vectors, 2)
        if vectors.shape[1] == 0:
            return torch.zeros_like(vectors)
        rows = vectors.detach().t().contiguous()

        def products(engine: Engine) -> Tensor:
            groups = rows.split(len(rows) if self._kept else self._columns)
            split = self._parameters.split
            return torch.cat([self._parameters.join(engine.products(split(few)), (len(few),)) for few in groups])

        return add_decay(self._mean(products), rows, self.weight_decay).t()

    def _mean(self, term: Callable[[Engine], Tensor]) -> Tensor:
        """The mean of ``term`` over all images, one micro-batch after the other."""
        images = sum(len(evaluation.images) for evaluation in self._evaluations)
        total: Tensor | None = None
        with plain_arithmetic(self.device):
            for evaluation, engine in zip(self._evaluations, self._engines(), strict=True):
                part = term(engine)
                if len(evaluation.images) < images:
                    part.mul_(len(evaluation.images) / images)
                total = part if total is None else total.add_(part)
        assert total is not None
        return total

    # Vectors.

    def named(self, vectors: Tensor) -> Named:
        """Views by parameter name of a vector: [n] -> [*shape], or of columns: [n, m] -> [*shape, m]."""
        if not isinstance(vectors, Tensor) or vectors.dim() != 2:
            self._check(vectors, 1)
            return self._parameters.split(vectors)
        self._check(vectors, 2)
        return {name: rows.movedim(0, -1) for name, rows in self._parameters.split(vectors.t()).items()}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The vector [n], or columns [n, m], of one tensor for every selected parameter; the inverse of ``named``."""
        columns = self._parameters.check_named(tensors)
        if columns is None:
            return self._parameters.join(tensors)
        rows = {name: tensor.movedim(-1, 0) for name, tensor in tensors.items()}
        return self._parameters.join(rows, (columns,)).t()

    def _check(self, vectors: Any, axes: int) -> None:
        shape = (self.shape[0], "m")[:axes]
        if not isinstance(vectors, Tensor):
            raise TypeError(f"vector: expected a tensor {list(shape)} or a dict by name, got {type(vectors).__name__}")
        if vectors.dim() != axes or vectors.shape[0] != self.shape[0]:
            raise ValueError(f"vector: expected shape {list(shape)}, got {list(vectors.shape)}")
        if (vectors.dtype, vectors.device) != (self.dtype, self.device):
            raise ValueError(f"vector: expected {self.dtype} on {self.device}, got {vectors.dtype} on {vectors.device}")

    # The same matrix otherwise.

    def under_autocast(self, dtype: torch.dtype = torch.bfloat16) -> CurvatureOperator:
        """The same matrix by low-precision products, for a solver that drafts: about 1 % off in bfloat16.

        The network and its loss run under ``torch.autocast``: matrix products and attention in ``dtype``; norms, the
        loss, and vectors in and out in float32. float16 loses what is small in the gradients of activations.

        Raises:
            TypeError: the operator is not in float32, or ``dtype`` is not bfloat16 or float16.
        """
        if self.dtype != torch.float32 or dtype not in (torch.bfloat16, torch.float16):
            raise TypeError(
                f"under_autocast: expected a float32 operator and a 16-bit dtype, got {self.dtype}, {dtype}"
            )
        low = copy.copy(self)
        low._evaluations = [
            replace(evaluation, conditions=replace(evaluation.conditions, autocast=dtype))
            for evaluation in self._evaluations
        ]
        low._choose(self.engine)
        return low

    def to_scipy(self, dtype: Any = None) -> Any:
        """A ``scipy.sparse.linalg.LinearOperator`` of it, for ``eigsh`` and others; vectors are NumPy's, on the host.

        ``dtype`` is what SciPy computes in, numpy.float32 or numpy.float64; by default the operator's own, in which
        the products are in any case.

        Raises:
            ImportError: there is no SciPy.
            TypeError: another dtype.
        """
        return scipy_operator(self, dtype)

    # Checks.

    def check(self, seed: int = 0) -> Symmetry:
        """Whether this is a fixed, symmetric matrix, judged by three products with random vectors.

        A kept graph repeats what the network once did, so that the network itself, too, runs twice on the first images.

        Raises:
            AsymmetryError: it is not; the message names likely causes.
        """
        found = check_symmetry(self, tolerance=self.tolerance(), seed=seed)
        check_network(self.network_change(), tolerance=self.tolerance())
        return found

    def tolerance(self) -> float:
        """What ``check`` allows for rounding."""
        return torch.finfo(self._evaluations[0].conditions.autocast or self.dtype).eps ** 0.5

    def network_change(self) -> float:
        """How far two runs of the network itself are apart."""
        with plain_arithmetic(self.device):
            return self._evaluations[0].change()

    def _check_pieces(self, divided: bool) -> None:
        """ValueError if the pieces do not add up to the whole, as far as the first of them tell."""
        first, *rest = self._evaluations
        with plain_arithmetic(self.device):
            if divided:
                check_separable(first)
            if divided and rest and rest[0].continues(first):
                check_mean([first, rest[0]])
            elif rest:
                check_mean_of_batches(first)

    # Engines.

    def _engines(self) -> Iterator[Engine]:
        """One for every micro-batch; graphs that are not kept are built in turn."""
        if self._kept:
            yield from self._kept
            return
        make = self._keeping if self.engine == "graph" else self._recomputing
        yield from map(make, self._evaluations)

    def _choose(self, engine: str) -> None:
        """Sets ``engine`` to "graph" or "jvp", and keeps the graphs of all micro-batches if they fit, else none."""
        self._kept: list[Engine] = []
        self.engine = engine
        if engine == "jvp":
            return
        with plain_arithmetic(self.device):
            asked = engine == "graph" and len(self._evaluations) == 1
            fits = asked or self._fits()
            if engine == "auto":
                self.engine = "graph" if fits else "jvp"
            if fits:
                self._kept = [self._keeping(evaluation) for evaluation in self._evaluations]

    def _fits(self) -> bool:
        budget = self._budget()
        return predicted_bytes(self._graph, self._evaluations, budget) <= budget

    @functools.cached_property
    def _columns(self) -> int:
        """How many columns at a time fit: under vmap each takes about a graph's bytes, and what they share one more."""
        largest = max(self._evaluations, key=lambda evaluation: len(evaluation.images))
        graph = predicted_bytes(self._graph, [largest])
        return max(1, int(self._budget() / max(graph, 1)) - 1)

    def _budget(self) -> float:
        return SHARE * available_bytes(self.device)
