"""Figure 2: the Hessian eigenvalues of largest magnitude, mini-batch by mini-batch.

Park & Kim (ICLR 2022, arXiv 2202.06709) gather the top eigenvalues of many mini-batches and show their density, with
two summaries: the negative eigenvalue proportion (NEP) and the average positive eigenvalue (APE).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alternet.analysis.checksum import checksum, structure_checksum, text_checksum
from alternet.analysis.curvature.arithmetic import plain_arithmetic
from alternet.analysis.curvature.evaluation import Conditions, Evaluation
from alternet.analysis.curvature.hessian import HessianOperator
from alternet.analysis.curvature.micro_batches import micro_batches
from alternet.analysis.curvature.parameters import Parameters
from alternet.analysis.distributed.dealing import check_data, finish, open_journal
from alternet.analysis.distributed.ranks import Ranks
from alternet.analysis.files import complete, json_number, load_json, save_json
from alternet.analysis.progress import Report, reporting
from alternet.analysis.solvers.lanczos import top_eigenvalues
from alternet.analysis.studies.journal import START_AGAIN, Kind

KIND = "alternet hessian spectra"
LEVEL = 0.95  # of all intervals
RESAMPLES = 2000
FEWEST = 6  # for an interval: fewer lie all on one side of the truth by chance too often, 2 of them every second time
HOW = ("engine", "micro_batch")  # arguments of the operator that its numbers do not depend on
COLUMNS: dict[str, type] = {"values": float, "residuals": float, "converged": bool, "products": int, "sizes": int}
# Of a loss that is still the same: threads and devices change float32 by about 1e-6, also a loss that is almost 0 (the
# logits it is the difference of are not). Another loss or network with the same weights changes more.
LOSS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % bootstrap interval, over mini-batches or images: NaN of fewer than ``FEWEST``."""

    value: float
    low: float
    high: float


def nep(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Negative eigenvalue proportion, ∫_{-∞}^0 p(λ) dλ: how many of values: [batches, k] are below 0."""
    values = _checked(values)
    return _bootstrap((values < 0).sum(1), np.full(len(values), values.shape[1]), seed)


def ape(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Average positive eigenvalue, ∫_0^∞ λ p dλ / ∫_0^∞ p dλ, of values: [batches, k]; NaN where none is positive."""
    values = _checked(values)
    positive = values > 0
    return _bootstrap(np.where(positive, values, 0.0).sum(1), positive.sum(1), seed)


def density(values: np.ndarray, grid: np.ndarray, *, bandwidth: float | None = None) -> np.ndarray:
    """Gaussian kernel density of values (any shape) at grid: [points], normalised over the real line.

    ``bandwidth`` is in the units of the eigenvalues; by default Silverman's, which a heavy tail does not blow up, and
    never less than the grid can show.

    Raises:
        ValueError: no values, or a bandwidth that is not positive.
    """
    sample = np.asarray(values, dtype=float).ravel()
    if not sample.size:
        raise ValueError("values: got none, expected at least one")
    if bandwidth is None:
        bandwidth = max(silverman(sample), float(np.diff(grid).max()))
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: expected a positive number, got {bandwidth}")
    total = np.zeros(len(grid))
    for value in sample:  # one row at a time: [points, values] would be large
        total += np.exp(-0.5 * ((grid - value) / bandwidth) ** 2)
    return total / (sample.size * bandwidth * math.sqrt(2 * math.pi))


def silverman(sample: np.ndarray) -> float:
    """The bandwidth 0.9 min(σ, IQR / 1.34) n^(-1/5) (Silverman 1986, eq. 3.31); 0 for a sample without spread."""
    spread = min(sample.std(), np.subtract(*np.quantile(sample, [0.75, 0.25])) / 1.34)
    return float(0.9 * spread * sample.size**-0.2)


@dataclass(frozen=True, eq=False)
class SpectraResult:
    """Top eigenvalues of the mini-batch Hessians of one network.

    values: [batches, k] float64, by falling magnitude in every row, weight decay included.
    residuals: [batches, k] float64, bounds of ‖Hu − θu‖: an eigenvalue lies within this distance.
    converged: [batches, k] bool, whether the residual met the tolerance.
    products: [batches] Hessian-vector products it took.
    sizes: [batches] images.
    network: the name that results and figures show.
    config: what the numbers depend on: ``k``, ``tol``, ``seed``, ``weight_decay``, ``loss`` and ``dtype``, further
        arguments of the ``operator``, the number of measured ``parameters``, checksums of their ``names``, of all
        ``weights`` and of the model's ``structure`` (its repr), and how many ``batches`` there are in all.
    """

    values: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: np.ndarray
    sizes: np.ndarray
    network: str
    config: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Plain JSON values: NEP and APE with intervals, quantiles of the eigenvalues, and how sure they are."""
        estimates = {"nep": nep(self.values), "ape": ape(self.values)}
        return {
            **{name: {k: json_number(v) for k, v in asdict(estimate).items()} for name, estimate in estimates.items()},
            "quantiles": {str(q): float(np.quantile(self.values, q)) for q in (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)},
            "sign_uncertain": int((np.abs(self.values) <= self.residuals).sum()),
            "not_converged": int((~self.converged).sum()),
            "products": int(self.products.sum()),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads, with the summary."""
        columns = {name: getattr(self, name).tolist() for name in COLUMNS}
        content = {"network": self.network, "config": self.config, "summary": self.summary(), **columns}
        save_json(path, KIND, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SpectraResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            return cls(**_arrays(content.__getitem__), network=content["network"], config=content["config"])


def hessian_spectra(
    model: nn.Module,
    batches: Any,
    *,
    k: int = 5,
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    weight_decay: float = 0.0,
    tol: float = 1e-3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: bool | Report = True,
    network: str | None = None,
    ranks: Ranks | None = None,
    **operator: Any,
) -> SpectraResult:
    """The ``k`` Hessian eigenvalues of largest magnitude of every mini-batch.

    Args:
        model: measured in eval mode, given back as it came.
        batches: has ``len`` and yields ``(images, targets)``; the same in every iteration.
        loss: ``loss(output, targets)``, a mean over the batch.
        weight_decay: of the L2 term ½·weight_decay·‖w‖², which shifts every eigenvalue by it.
        tol: Lanczos stops at residuals of ``tol`` times the largest magnitude (see ``top_eigenvalues``).
        seed: batch i starts Lanczos from seed + i, which is also the seed of frozen masks.
        out: a ``.jsonl`` file that gets one line per finished mini-batch. Where it exists, the study goes on behind
            the batches it holds, which are read again to see that they and their loss are the same; killed, it loses
            the batch in hand at most. The finished result is saved beside it as ``.json``.
        progress: show a bar with the time left on stderr, or call ``progress(batches done, batches in all)``, first
            with what was done before.
        network: the name in results and figures; by default the class of the model.
        ranks: processes that share the work, and call this alike; batch i is measured by rank i mod ranks. ``out``
            holds the same as that of one process, and either can go on with what the other has left.
        **operator: further arguments of ``HessianOperator``, as ``params``, ``batch_norm``, ``engine``: JSON values.

    Raises:
        RankLost: another rank has ended.
        ValueError: no batches; an ``out`` that is broken, or belongs to another study, network, loss or other batches;
            see also ``HessianOperator`` and ``top_eigenvalues``.
        FloatingPointError: a loss or a Hessian-vector product is not finite.
    """
    network = network or type(model).__name__
    matters = {name: value for name, value in operator.items() if name not in HOW}
    config = _config(model, loss, len(batches), k=k, tol=tol, seed=seed, weight_decay=weight_decay, operator=matters)
    journal = open_journal(out, KIND, config, _row_kinds(k), ranks)

    def solve(index: int, batch: tuple[Tensor, Tensor], known: dict[str, Any] | None) -> dict[str, Any]:
        data = checksum(batch)
        if known is not None:
            check_data(known, data, journal, index)
        try:
            value = _loss_value(model, loss, batch, matters)
            if known is not None:
                check_loss(known["loss"], value, f"out: {out} holds batch {index} with another loss")
                return known
            op = HessianOperator(model, loss, batch, weight_decay=weight_decay, seed=seed + index, **operator)
            return {"data": data, "loss": value, "sizes": len(batch[0]), **_solve(op, k, tol, seed + index)}
        except FloatingPointError as error:
            raise FloatingPointError(f"batch {index}: {error} (diverged weights, bad images?)") from error

    with _shown(progress, network) as report:
        finish(journal, batches, solve, report, ranks)
    columns = _arrays(lambda name: [row[name] for row in journal.rows])
    result = SpectraResult(**columns, network=network, config=config)
    if out is not None and (ranks is None or ranks.is_first):
        result.save(Path(out).with_suffix(".json"))
    return result


def _shown(progress: bool | Report, network: str) -> AbstractContextManager[Report]:
    if callable(progress):
        return nullcontext(progress)
    return reporting(f"Hessian of {network}") if progress else nullcontext(lambda done, total: None)


def _row_kinds(k: int) -> dict[str, Kind]:
    """What the journal has of every mini-batch."""
    lists: dict[str, Kind] = {name: (COLUMNS[name], k) for name in ("values", "residuals", "converged")}
    return {**COLUMNS, **lists, "data": str, "loss": float}


def _loss_value(
    model: nn.Module, loss: Callable[[Any, Tensor], Tensor], batch: tuple[Tensor, Tensor], operator: dict[str, Any]
) -> float:
    """The loss of a mini-batch, without dropout, whose masks depend on the device. FloatingPointError: not finite."""
    measured = Parameters(model, operator.get("params"))
    (piece,) = micro_batches(batch, None, measured.dtype)
    conditions = Conditions(operator.get("batch_norm", "running"))
    with plain_arithmetic(measured.device), torch.no_grad():
        value = float(Evaluation(model, loss, *piece, measured.device, conditions).objective({}))
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value}")
    return value


def check_loss(before: float, now: float, message: str) -> None:
    """Weights do not say everything: attention's heads, or what two lambdas compute, show in the loss alone."""
    if not math.isclose(before, now, rel_tol=LOSS_TOLERANCE, abs_tol=LOSS_TOLERANCE):
        raise ValueError(f"{message}: it was {before:.7g} and is {now:.7g}; {START_AGAIN}")


def _arrays(column: Callable[[str], Any]) -> dict[str, np.ndarray]:
    return {name: np.array(column(name), dtype) for name, dtype in COLUMNS.items()}


def _solve(op: HessianOperator, k: int, tol: float, seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    found = top_eigenvalues(op, k, tol=tol, seed=seed)
    return {
        "products": found.products,
        "seconds": round(time.perf_counter() - start, 3),
        "values": found.values.tolist(),
        "residuals": found.residuals.tolist(),
        "converged": found.converged.tolist(),
    }


def _config(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    batches: int,
    *,
    weight_decay: float,
    operator: dict[str, Any],
    **rest: Any,
) -> dict[str, Any]:
    measured = Parameters(model, operator.get("params"))
    return {
        **rest,
        "operator": operator,
        "weight_decay": weight_decay,
        "loss": getattr(loss, "__name__", repr(loss)),
        "dtype": str(measured.dtype).removeprefix("torch."),
        "parameters": measured.size,
        "names": text_checksum("\n".join(measured.tensors)),
        "weights": checksum([*model.parameters(), *model.buffers()]),
        "structure": structure_checksum(model),
        "batches": batches,
    }


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values: expected [batches, k], not empty, got shape {list(values.shape)}")
    return values


def _bootstrap(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> Estimate:
    """Σ numerators / Σ denominators, both [batches], with the percentile interval of resampled mini-batches.

    Mini-batches are resampled and not eigenvalues: the k of one mini-batch depend on each other. Fewer than ``FEWEST``
    have no interval.
    """
    batches = len(numerators)
    drawn = np.random.default_rng(seed).integers(batches, size=(RESAMPLES, batches))
    with np.errstate(invalid="ignore"):  # 0 / 0: nothing to average, NaN
        value = numerators.sum() / np.float64(denominators.sum())
        resampled = numerators[drawn].sum(1) / denominators[drawn].sum(1)
    resampled = resampled[~np.isnan(resampled)]
    if batches < FEWEST or not resampled.size:
        return Estimate(float(value), math.nan, math.nan)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))
