"""The spectral density of a symmetric operator, by stochastic Lanczos quadrature.

Golub & Welsch 1969; for Hessians of networks Ghorbani, Krishnan & Xiao 2019 and PyHessian (Yao et al. 2020), whose
Lanczos runs do not reorthogonalise and therefore show eigenvalues several times; here they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.progress import Report
from alternet.analysis.solvers.krylov import LanczosProcess
from alternet.analysis.solvers.operators import LinearOperator, check_operator, multiply
from alternet.analysis.training.seeding import derived_seed


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Gauss quadratures of the spectral measures of random unit vectors, whose mean is the spectral density.

    nodes: [probes, steps] float64, the Ritz values of every probe; where a Krylov space ended early, the last ones are
        repeated with weight 0.
    weights: [probes, steps] float64, rows sum to 1.
    size: n of the operator [n, n].
    products: how many times the operator was applied.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    products: int

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """The mean of ``function`` over the eigenvalues, and its standard error over the probes (NaN for one).

        Exact for each probe's measure if ``function`` is a polynomial of degree 2·steps - 1 or less. n times the mean
        of λ is the trace, n times that of λ² the squared Frobenius norm.
        """
        return _mean_and_error((self.weights * function(self.nodes)).sum(1))

    def below(self, value: float) -> tuple[float, float]:
        """The proportion of eigenvalues below ``value``, and its standard error.

        A step is no polynomial: of a probe's measure the quadrature knows it up to the weights of the nodes on either
        side of ``value`` (Chebyshev, Markov and Stieltjes). Half of the larger one is added to the error over the
        probes, in squares.
        """
        share, error = self.mean(lambda nodes: (nodes < value).astype(float))
        return share, math.hypot(error, float(self._weights_beside(value).max(axis=0).mean()) / 2)

    def _weights_beside(self, value: float) -> np.ndarray:
        """[2, probes]: of the last node below ``value`` and the first from there on, 0 where there is none."""
        present = self.weights > 0  # what pads a short quadrature is no node
        sides = [self.nodes < value, self.nodes >= value]
        last, first = (np.where(side & present, self.nodes, np.nan) for side in sides)
        weights = []
        for nodes, best in ((last, np.fmax), (first, np.fmin)):
            nearest = best.reduce(nodes, axis=1, keepdims=True)
            weights.append(np.where(nodes == nearest, self.weights, 0.0).sum(axis=1))
        return np.stack(weights)

    def curve(self, grid: np.ndarray, *, bandwidth: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The density at grid: [points], smoothed by a Gaussian, and its standard error over the probes, [points] each.

        ``bandwidth`` is the Gaussian's standard deviation in the units of the eigenvalues, by default a hundredth of
        the range of the nodes: what is closer together than that cannot be told apart in the curve.

        Raises:
            ValueError: a bandwidth that is not positive.
        """
        if bandwidth is None:
            bandwidth = float(np.ptp(self.nodes)) / 100 or 1.0
        if not bandwidth > 0:
            raise ValueError(f"bandwidth: expected a positive number, got {bandwidth}")
        heights = [(self.weights * _gaussian(self.nodes - x, bandwidth)).sum(1) for x in np.asarray(grid, float)]
        values, errors = np.array([_mean_and_error(height) for height in heights]).reshape(-1, 2).T
        return values, errors


def spectral_density(
    op: LinearOperator,
    *,
    probes: int = 5,
    steps: int = 50,
    seed: int = 0,
    block_size: int = 1,
    progress: Report | None = None,
) -> SpectralDensity:
    """Stochastic Lanczos quadrature: ``probes`` Lanczos runs of ``steps`` products from random unit vectors.

    Every run keeps its vectors orthogonal to the root of the dtype's epsilon, by which its nodes and weights are those
    of full reorthogonalisation (Simon 1984); inner products are in float64. Draws depend on ``seed`` alone, not on the
    device. Memory: ``block_size * steps`` vectors of the operator's size.

    Args:
        op: symmetric, float32 or float64, [n, n]; of a layer or a block where the operator selects parameters.
        block_size: probes that run side by side, their vectors multiplied at once by ``op.matmat`` where there is one.
            Each keeps its own space: the result is that of one after the other.
        progress: called with the products done and ``probes * steps``, first with 0, then after each product.

    Raises:
        TypeError: ``op`` is not float32 or float64.
        ValueError: ``op`` is not square, or ``probes``, ``steps`` or ``block_size`` is below 1.
        FloatingPointError: a product has a NaN or an infinity.
    """
    for name, count in (("probes", probes), ("steps", steps), ("block_size", block_size)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    check_operator(op)
    overlap = torch.finfo(op.dtype).eps ** 0.5
    steps_done = 0
    quadratures = []
    with plain_arithmetic(torch.device(op.device)):
        for first in range(0, probes, block_size):
            some = range(first, min(first + block_size, probes))
            runs = [LanczosProcess(op, derived_seed(seed, "probe", probe), overlap=overlap) for probe in some]
            for done in _side_by_side(op, runs, steps):
                if progress is not None:
                    progress(steps_done + done, probes * steps)
            steps_done += len(runs) * steps
            quadratures += [_quadrature(run, steps) for run in runs]
    nodes, weights, products = zip(*quadratures, strict=True)
    return SpectralDensity(np.stack(nodes), np.stack(weights), op.shape[0], sum(products))


def _side_by_side(op: LinearOperator, runs: list[LanczosProcess], steps: int) -> Iterator[int]:
    """``steps`` steps of every run, fewer where its Krylov space ends; yields the products done, 0 first."""
    yield 0
    running = runs
    for _ in range(min(steps, op.shape[0])):
        blocks = [run.next_block() for run in running]
        images = multiply(op, blocks[0] if len(blocks) == 1 else torch.cat(blocks))
        for run, image in zip(running, images.split(1), strict=True):
            run.extend(image)
        yield sum(run.products for run in runs)
        running = [run for run in running if not run.ended]
        if not running:
            break


def _quadrature(run: LanczosProcess, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Nodes [steps] and weights [steps] of one probe's measure, and the products it took."""
    pairs = run.ritz()
    missing = steps - len(pairs.values)
    nodes = np.pad(pairs.values.numpy(), (0, missing), mode="edge")
    return nodes, np.pad(pairs.coordinates[0].square().numpy(), (0, missing)), run.products


def _gaussian(distance: np.ndarray, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def _mean_and_error(samples: np.ndarray) -> tuple[float, float]:
    error = float(samples.std(ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
    return float(samples.mean()), error
