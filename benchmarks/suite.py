"""What a suite of measurements is: ``benchmarks/<name>.py`` defines one as ``SUITE``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SUITES = ("attention", "table", "pointwise", "convolution", "matrix_product", "spectrum", "model")


@dataclass(frozen=True)
class Cell:
    """One measurement; a suite's module has a subclass of it, whose objects can be pickled."""

    shape: str
    task: str
    implementation: str

    def prepare(self) -> Callable[[], object]:
        """The work as a function without arguments, its inputs and whatever it keeps made."""
        raise NotImplementedError


@dataclass(frozen=True)
class Suite:
    """A table of ``alternet`` against its peers: one row for every shape and task.

    Attributes:
        shapes: what a shape is, the title of the first column.
        peers: how the table calls every implementation that ``alternet`` is compared with.
        cells: every cell, in the order of the table; each row has one that is ``alternet``'s.
    """

    shapes: str
    peers: Mapping[str, str]
    cells: Callable[[], list]

    def rows(self) -> dict[tuple[str, str], dict[str, Cell]]:
        """Cells by shape and task, then by implementation."""
        rows: dict[tuple[str, str], dict[str, Cell]] = {}
        for cell in self.cells():
            rows.setdefault((cell.shape, cell.task), {})[cell.implementation] = cell
        return rows


def load(name: str) -> Suite:
    """The suite of this name, one of ``SUITES``."""
    return importlib.import_module(f"{__package__}.{name}").SUITE
