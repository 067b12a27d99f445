"""A claim: one statistic, a side of a threshold, and the verdict that its bootstrap interval gives."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from alternet.analysis.files import save_csv, save_json
from alternet.analysis.studies.spectra import FEWEST, LEVEL, RESAMPLES
from alternet.analysis.training.networks import LABELS

KIND = "alternet claims"
COLUMNS = "topic statement statistic expected value low high verdict detail paper"
Verdict = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with what the numbers say.

    ``statistic`` names what ``value`` and its interval ``low`` … ``high`` are; ``expected`` is the side that the claim
    is on, as in ``"< 0"``. ``detail`` breaks the value down; ``paper`` is what the authors report.
    """

    topic: str
    statement: str
    statistic: str
    expected: str
    value: float
    low: float
    high: float
    verdict: Verdict
    detail: str
    paper: str


def save_claims(claims: Sequence[Claim], folder: str | os.PathLike[str]) -> None:
    """Write ``claims.json`` and ``claims.csv``; values that do not exist are null, and empty."""
    rows = [{name: _or_none(value) for name, value in asdict(claim).items()} for claim in claims]
    save_json(os.path.join(folder, "claims.json"), KIND, {"level": LEVEL, "claims": rows})
    save_csv(os.path.join(folder, "claims.csv"), COLUMNS, ([*row.values()] for row in rows))


def verdict(low: float, high: float, expected: str) -> Verdict:
    """Where the interval lies, seen from ``expected``: "supported" wholly inside, "not supported" wholly outside."""
    side, bound = expected.split()
    threshold = float(bound)
    if np.isnan([low, high]).any():
        return "undecided"
    inside = (low > threshold, high > threshold) if side == ">" else (high < threshold, low < threshold)
    return "supported" if inside[0] else "undecided" if inside[1] else "not supported"


def resamples(count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` items is drawn: [1 + resamples, count]; the first row is the data as they are.

    Fewer than ``FEWEST`` do not say how they vary: NaN in place of the resamples, so that nothing is decided by them.
    """
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn if count >= FEWEST else np.full(drawn.shape, np.nan)])


def judged(
    topic: str, statement: str, statistic: str, expected: str, values: np.ndarray, detail: str, reported: str
) -> Claim:
    """``values``: the statistic of the data as they are, then of the resamples; NaN makes the interval NaN."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    numbers = float(values[0]), float(low), float(high)
    return Claim(topic, statement, statistic, expected, *numbers, verdict(low, high, expected), detail, reported)


def listed(values: Mapping[str, np.ndarray], form: str) -> str:
    return ", ".join(f"{LABELS.get(name, name)} {form.format(value[0])}" for name, value in values.items())


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
