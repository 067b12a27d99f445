"""Similarity of layers by mini-batch centred kernel alignment (CKA), of one network or of two.

    CKA(K, L) = mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) · mean HSIC_1(L, L))

over mini-batches, each mean for itself; K and L are the Gram matrices X Xᵀ of a layer's features X [images, C·H·W]
(the linear kernel). HSIC_1 has no bias, so that the size of batches changes the scatter of the result, which can bring
unrelated layers a little below 0, and not what it scatters about. The layers are those of ``taps``.
Source: Nguyen, Raghu & Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, section 2. Park & Kim,
ICLR 2022 (arXiv 2202.06709), read from it that only networks of several stages have a block structure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alternet.analysis.checksum import checksum
from alternet.analysis.distributed.dealing import Row, check_data, finish
from alternet.analysis.features.fingerprint import fingerprint
from alternet.analysis.features.hsic import LEAST, gram_matrix, hsic
from alternet.analysis.features.taps import Tap, observe, taps
from alternet.analysis.files import complete, json_number, load_json, save_csv, save_json
from alternet.analysis.modes import evaluating, output_of
from alternet.analysis.studies.journal import Journal

KIND = "alternet layer similarity"
SUMS_KIND = "alternet similarity sums"
COLUMNS = {"data": str, "images": int, "hsic": list}


@dataclass(frozen=True, eq=False)
class SimilarityResult:
    """CKA of every layer of a network with every layer of the same, or of an ``other`` one (None: the same).

    ``cka`` is float64 [taps, other_taps], at most 1, and NaN where a layer gives all images the same features.
    ``images`` are those that were used. Taps in order of depth.
    """

    network: str
    other: str | None
    images: int
    taps: tuple[Tap, ...]
    other_taps: tuple[Tap, ...]
    cka: np.ndarray

    @property
    def stage_means(self) -> tuple[float, float]:
        """Mean CKA of two layers of one stage, and of two layers of different stages (the stem is left out).

        Layers near to each other are similar whatever the stages: both are means over the distances (in layers) at
        which pairs of both kinds occur, of the mean at each. NaN where there is no such distance (a ViT has one stage),
        and for two networks, between whose layers there is none.
        """
        if self.other is not None:
            return np.nan, np.nan
        means = [(same.mean(), apart.mean()) for same, apart in self._by_distance() if len(same) and len(apart)]
        within, between = np.mean(means, axis=0).tolist() if means else (np.nan, np.nan)
        return within, between

    def _by_distance(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """CKA of the pairs of layers of one stage, and of those of two stages, at the distances 1, 2, …"""
        stages = np.array([tap.stage for tap in self.taps if tap.stage])
        values = self.cka[-len(stages) :, -len(stages) :]
        for distance in range(1, len(stages)):
            same = stages[distance:] == stages[:-distance]
            found = values.diagonal(distance)
            yield found[same], found[~same]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON that ``load`` reads (NaN as null)."""
        within, between = map(json_number, self.stage_means)
        content = {
            "network": self.network,
            "other": self.other,
            "images": self.images,
            "within_stages": within,
            "between_stages": between,
            "taps": [asdict(tap) for tap in self.taps],
            "other_taps": [asdict(tap) for tap in self.other_taps],
            "cka": [[json_number(value) for value in row] for row in self.cka.tolist()],
        }
        save_json(path, KIND, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SimilarityResult:
        """Read what ``save`` wrote. Raises FileNotFoundError, or ValueError for any other file."""
        content = load_json(path, KIND)
        with complete(path, KIND):
            return cls(
                network=content["network"],
                other=content["other"],
                images=content["images"],
                taps=tuple(map(Tap.from_row, content["taps"])),
                other_taps=tuple(map(Tap.from_row, content["other_taps"])),
                cka=np.array(content["cka"], dtype=float),  # None becomes NaN
            )

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line per pair of layers, for other programs."""
        other = self.network if self.other is None else self.other
        rows = (
            [self.network, tap.name, tap.kind, tap.stage, other, second.name, second.kind, second.stage, value]
            for tap, values in zip(self.taps, self.cka.tolist(), strict=True)
            for second, value in zip(self.other_taps, values, strict=True)
        )
        save_csv(path, "network tap kind stage other other_tap other_kind other_stage cka", rows)


def layer_similarity(
    model: nn.Module,
    batches: Any,
    *,
    network: str,
    other: tuple[str, nn.Module] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SimilarityResult:
    """The similarity of all layers of ``model`` (called ``network``) with each other, or with those of ``other``.

    ``other`` is what a second model is called, and the model. For all else see ``layer_similarities``, which gives the
    similarities within both of them from the same pass.
    """
    networks = [(network, model)] if other is None else [(network, model), other]
    return layer_similarities(networks, batches, out=out, progress=progress)[-1]


@torch.no_grad()
def layer_similarities(
    networks: Sequence[tuple[str, nn.Module]],
    batches: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SimilarityResult, ...]:
    """The similarity of layers of each of the ``networks`` (names and models), then that of every two of them.

    One forward pass per batch and network, in eval mode. Features are read in hooks, which keep their Gram matrix
    (float64 [B, B]) alone. Every image weighs the same, also in a last batch that is smaller: the weight of a batch's
    HSIC is the number of its images. A last batch of fewer than four, which have none, is left out.

    Args:
        networks: any that ``taps`` knows, on any devices; given back in the modes they came in.
        batches: has ``len`` and yields tuples whose first item is images [B, 3, H, W]; the same in every iteration. In
            random order (``eval_batches`` with a ``seed``): the images of a batch stand for the whole set, and in its
            own order a set often has them class by class.
        out: a ``.jsonl`` file that gets one line per finished batch, the HSIC of all pairs of layers. Where it exists,
            the pass goes on behind the batches it holds, which are read again to see that they are the same, and ends
            with the numbers of a pass that was never stopped; killed, it loses the batch in hand at most.
        progress: called with (batches done, batches in all) at the start and after every batch.

    Raises:
        TypeError: as ``taps`` does.
        ValueError: no batches; one of fewer than four images that is the only or not the last; features that are not
            finite; an ``out`` that is broken or belongs to other networks or other images.
    """
    places = [tuple(taps(model)) for _, model in networks]
    config = {f"network_{number}": fingerprint(model) for number, (_, model) in enumerate(networks, start=1)}
    journal = Journal(out, SUMS_KIND, {**config, "batches": len(batches)}, COLUMNS)

    def solve(number: int, batch: Sequence[Tensor], known: Row | None) -> Row:
        data = checksum(batch[:1])
        if known is not None:
            check_data(known, data, journal, number, "images")
            return known
        images = batch[0]
        if len(images) >= LEAST:
            grams = torch.cat([_grams(name, model, images) for name, model in networks])
            return {"data": data, "images": len(images), "hsic": hsic(grams, grams).tolist()}
        if 0 < number == len(batches) - 1:
            return {"data": data, "images": 0, "hsic": []}
        raise ValueError(f"batches: batch {number} has {len(images)} images, expected at least {LEAST}")

    with ExitStack() as modes:
        for _, model in networks:
            modes.enter_context(evaluating(model))
        finish(journal, batches, solve, progress or (lambda done, total: None))
    return _results([name for name, _ in networks], places, journal.rows)


def _grams(name: str, model: nn.Module, images: Tensor) -> Tensor:
    """One forward pass: the Gram matrices at all taps, float64 [taps, B, B] on the CPU."""
    grams: list[Tensor] = []

    def visit(tap: Tap, maps: Tensor) -> None:
        gram = gram_matrix(maps)
        if not gram.isfinite().all():
            raise ValueError(f"{name}: the features at {tap.name} are not finite (diverged weights, bad images?)")
        grams.append(gram.cpu())

    with observe(model, visit):
        output_of(model, images)
    return torch.stack(grams)


def _results(
    names: Sequence[str], places: Sequence[tuple[Tap, ...]], rows: Sequence[Mapping[str, Any]]
) -> tuple[SimilarityResult, ...]:
    """The matrix of all layers of all networks, cut into those of one network and of two."""
    used = [row for row in rows if row["images"]]
    sums = sum(row["images"] * np.array(row["hsic"]) for row in used)
    own = np.sqrt(np.where(sums.diagonal() > 0, sums.diagonal(), np.nan))
    cka = sums / own[:, None] / own
    ends = np.cumsum([len(each) for each in places])
    layers = [slice(end - len(each), end) for end, each in zip(ends, places, strict=True)]
    images = sum(row["images"] for row in used)

    def result(i: int, j: int) -> SimilarityResult:
        other = None if i == j else names[j]
        return SimilarityResult(names[i], other, images, places[i], places[j], cka[layers[i], layers[j]])

    numbers = range(len(names))
    return tuple(result(i, j) for i, j in [*((i, i) for i in numbers), *combinations(numbers, 2)])
