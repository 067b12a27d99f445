"""Progress bars with the time left, all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

LABEL_WIDTH = 26

Report = Callable[[int, int], None]  # (done, in all): first with what was done before, then after every piece


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
def reporting(label: str, unit: str = "batch") -> Iterator[Report]:
    """A bar moved by calls of ``report(units done, units in all)``, the first of which says where it starts."""
    bar: list[tqdm] = []

    def report(done: int, total: int) -> None:
        if not bar:
            bar.append(progress_bar(label, total, done=done, unit=unit))
        bar[0].update(done - bar[0].n)

    try:
        yield report
    finally:
        for opened in bar:
            opened.close()


@contextmanager
def reporting_stages(label: str, total: int, unit: str = "batch") -> Iterator[Callable[[str], Report]]:
    """One bar over several stages with ``total`` pieces in all, so that the time left is that of the whole.

    ``stage(name)`` begins a stage and gives its report.
    """
    with progress_bar(label, total, unit=unit) as bar:

        def stage(name: str) -> Report:
            bar.set_postfix_str(name, refresh=False)
            before: int | None = None

            def report(done: int, _: int) -> None:
                nonlocal before
                if before is None:  # counts as progress but not for the speed
                    bar.n, bar.initial, bar.last_print_n = bar.n + done, bar.initial + done, bar.last_print_n + done
                    bar.refresh()
                else:
                    bar.update(done - before)
                before = done

            return report

        yield stage
