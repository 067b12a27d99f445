"""One function for every tool: top eigenvalues at one of its settings, and densities.

A setting is what a user of that tool turns to get more accuracy; every tool has a ladder of them, from loose to tight.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .problem import KeptGraph, Problem

Top = Callable[[Problem, int, Any], tuple[Tensor, int]]  # (problem, k, setting) -> eigenvalues, products


class Tool(NamedTuple):
    """``package``: what must be importable. ``density``: (problem, steps) -> products; None where there is none."""

    title: str
    package: str
    top: Top
    settings: tuple[Any, ...]
    density: Callable[[Problem, int], int] | None = None

    def installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def alternet_top(problem: Problem, k: int, tol: float) -> tuple[Tensor, int]:
    from alternet.analysis.curvature.hessian import HessianOperator
    from alternet.analysis.solvers.lanczos import top_eigenvalues

    model, images, targets = problem.make()
    found = top_eigenvalues(HessianOperator(model, F.cross_entropy, (images, targets)), k, tol=tol)
    return found.values, found.products


def alternet_density(problem: Problem, steps: int) -> int:
    from alternet.analysis.curvature.hessian import HessianOperator
    from alternet.analysis.solvers.density import spectral_density

    model, images, targets = problem.make()
    op = HessianOperator(model, F.cross_entropy, (images, targets))
    return spectral_density(op, probes=1, steps=steps).products


def kept_graph_top(problem: Problem, k: int, tol: float) -> tuple[Tensor, int]:
    product = KeptGraph(*problem.make())
    return _eigsh(product.scipy(), k, tol), product.products


def pyhessian_top(problem: Problem, k: int, tol: float) -> tuple[Tensor, int]:
    package = importlib.import_module("pyhessian.hessian")  # an attribute of this name is the class
    count, original = 0, package.hessian_vector_product

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments)

    package.hessian_vector_product = counted
    values, _ = _pyhessian(problem).eigenvalues(maxIter=1000, tol=tol, top_n=k)
    return torch.tensor(values), count


def _pyhessian(problem: Problem) -> Any:
    import pyhessian

    model, images, targets = problem.make()
    with sdpa_kernel(SDPBackend.MATH):
        return pyhessian.hessian(model, F.cross_entropy, data=(images, targets), cuda=False)


def pyhessian_density(problem: Problem, steps: int) -> int:
    _pyhessian(problem).density(iter=steps, n_v=1)
    return steps


def curvlinops_top(problem: Problem, k: int, tol: float) -> tuple[Tensor, int]:
    op, count = _curvlinops(problem).to_scipy(), 0

    def matvec(vector: Any) -> Any:
        nonlocal count
        count += 1
        return op @ vector

    with sdpa_kernel(SDPBackend.MATH):
        return _eigsh(scipy.sparse.linalg.LinearOperator(op.shape, matvec=matvec, dtype=op.dtype), k, tol), count


def curvlinops_density(problem: Problem, steps: int) -> int:
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    with sdpa_kernel(SDPBackend.MATH):
        fast_lanczos(_curvlinops(problem), steps)
    return steps


def _curvlinops(problem: Problem) -> Any:
    import curvlinops

    model, images, targets = problem.make()
    loss, parameters = torch.nn.CrossEntropyLoss(), list(model.parameters())
    return curvlinops.HessianLinearOperator(model, loss, parameters, [(images, targets)], check_deterministic=False)


def eigenthings_top(problem: Problem, k: int, steps: int) -> tuple[Tensor, int]:
    import hessian_eigenthings

    with sdpa_kernel(SDPBackend.MATH):
        found = hessian_eigenthings.lanczos(_eigenthings(problem), k=k, max_iter=steps, which="LM", seed=0)
    return found.eigenvalues, found.iterations


def eigenthings_density(problem: Problem, steps: int) -> int:
    import hessian_eigenthings

    with sdpa_kernel(SDPBackend.MATH):
        hessian_eigenthings.spectral_density(_eigenthings(problem), num_runs=1, lanczos_steps=steps, seed=0)
    return steps


def _eigenthings(problem: Problem) -> Any:
    import hessian_eigenthings

    model, images, targets = problem.make()
    loss = hessian_eigenthings.supervised_loss(F.cross_entropy)
    return hessian_eigenthings.HessianOperator(model, [(images, targets)], loss)


def _eigsh(operator: Any, k: int, tol: float) -> Tensor:
    """ARPACK as most people call it: the default subspace, eigenvalues alone."""
    start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(0)).numpy()
    found = scipy.sparse.linalg.eigsh(operator, k, which="LM", tol=tol, v0=start, return_eigenvectors=False)
    return torch.as_tensor(found)


TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)

TOOLS = {
    "alternet": Tool("alternet", "alternet", alternet_top, TOLERANCES, alternet_density),
    "kept graph": Tool("kept graph + SciPy eigsh", "scipy", kept_graph_top, TOLERANCES),
    "curvlinops": Tool("curvlinops + SciPy eigsh", "curvlinops", curvlinops_top, TOLERANCES, curvlinops_density),
    "hessian-eigenthings": Tool(
        "hessian-eigenthings, Lanczos",
        "hessian_eigenthings",
        eigenthings_top,
        (15, 20, 25, 30, 40, 50),
        eigenthings_density,
    ),
    "PyHessian": Tool("PyHessian, power iteration", "pyhessian", pyhessian_top, TOLERANCES[4:], pyhessian_density),
}


Product = Callable[[Problem, Tensor], Callable[[], Tensor]]


def _alternet_product(engine: str, micro_batch: int | None = None) -> Product:
    def prepare(problem: Problem, vector: Tensor) -> Callable[[], Tensor]:
        from alternet.analysis.curvature.hessian import HessianOperator

        model, images, targets = problem.make()
        options: dict[str, Any] = {"engine": engine, "micro_batch": micro_batch}
        return lambda: HessianOperator(model, F.cross_entropy, (images, targets), **options) @ vector

    return prepare


def _kept_graph_product(problem: Problem, vector: Tensor) -> Callable[[], Tensor]:
    model, images, targets = problem.make()
    return lambda: KeptGraph(model, images, targets)(vector)


def _curvlinops_product(problem: Problem, vector: Tensor) -> Callable[[], Tensor]:
    def work() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return _curvlinops(problem) @ vector

    return work


def _pyhessian_product(problem: Problem, vector: Tensor) -> Callable[[], Tensor]:
    from pyhessian.utils import hessian_vector_product

    def work() -> Tensor:
        found = _pyhessian(problem)
        sizes = [parameter.numel() for parameter in found.params]
        parts = [part.view_as(p) for part, p in zip(vector.split(sizes), found.params, strict=True)]
        product = hessian_vector_product(found.gradsH, found.params, parts)
        return torch.cat([part.reshape(-1) for part in product])

    return work


# An operator and one product of it with a vector [n], as a function without arguments.
PRODUCTS: dict[str, Product] = {
    "alternet, graph": _alternet_product("graph"),
    "alternet, graph, micro-batches of 4": _alternet_product("graph", 4),
    "alternet, jvp": _alternet_product("jvp"),
    "alternet, jvp, micro-batches of 4": _alternet_product("jvp", 4),
    "kept graph": _kept_graph_product,
    "curvlinops": _curvlinops_product,
    "PyHessian": _pyhessian_product,
}
