"""Progress bars with the time left, all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

LABEL_WIDTH = 26


def progress_bar(label: str, total: int, *, done: int = 0, unit: str = "batch") -> tqdm:
    """A bar on stderr. ``done`` was done before: it counts as progress but not for the speed."""
    return tqdm(
        desc=label.ljust(LABEL_WIDTH),
        total=total,
        initial=done,
        unit=unit,
        file=sys.stderr,
        mininterval=0.5,
        dynamic_ncols=True,
    )


@contextmanager
def reporting(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar moved by calls of ``report(batches done, batches in all)``, the first of which says where it starts."""
    bar: list[tqdm] = []

    def report(done: int, total: int) -> None:
        if not bar:
            bar.append(progress_bar(label, total, done=done))
        bar[0].update(done - bar[0].n)

    try:
        yield report
    finally:
        for opened in bar:
            opened.close()
