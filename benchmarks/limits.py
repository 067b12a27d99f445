"""``python -m benchmarks.limits``: how far from the machine's limits, where alternet is less than twice eager PyTorch.

Two limits are taken from what eager PyTorch does in the same work, so that nothing is counted by hand: the matrix
products that it calls, at the rate of a large product on this machine, and every input read and every result written
once, at the rate of a large copy. The larger of the two is the least time of that work; eager's time over it is the
most that any implementation with these products could gain. A fused kernel computes some products anew, instead of
keeping their results. Writes benchmarks/results/limits.md and limits.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .measure import interleaved_seconds
from .report import RESULTS, line, machine, save
from .suite import Cell, load

ROWS = (  # suite, beginning of the shape, task
    ("attention", "ViT-Ti", "jvp(grad)"),
    ("attention", "windows of 7", "jvp(grad)"),
    ("table", "table per head", "double backward"),
    ("table", "table per head", "jvp(grad)"),
    ("table", "windows of 4", "forward + backward"),
    ("table", "windows of 4", "jvp(grad)"),
    ("table", "windows of 7", "forward + backward"),
    ("table", "windows of 7", "jvp(grad)"),
    ("pointwise", "GELU 4112 x 192", "jvp(grad)"),
    ("pointwise", "cross-entropy", "jvp(grad)"),
    ("model", "ViT-Ti", "product, graph kept"),
)


@dataclass(frozen=True)
class Rates:
    """Of this machine, with the threads of the measurement: float32 products and a copy, too large for a cache."""

    flops: float  # per second
    bytes: float  # per second

    @classmethod
    def measure(cls) -> Rates:
        square = torch.randn(2048, 2048)
        source, sink = torch.randn(2**26), torch.empty(2**26)
        seconds = interleaved_seconds({"product": lambda: square @ square, "copy": lambda: sink.copy_(source)})
        return cls(2 * 2048**3 / min(seconds["product"]), 2 * source.nbytes / min(seconds["copy"]))


class _FirstReads(TorchDispatchMode):
    """The bytes of tensors that operations read without having made them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._seen: dict[int, Any] = {}  # storages, kept alive so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self.bytes += self._new_bytes(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._new_bytes(tensor)
        return result

    def _new_bytes(self, tensor: Tensor) -> int:
        """Of its storage, where that was not seen before."""
        while is_functorch_wrapped_tensor(tensor):  # inside of a transform
            tensor = get_unwrapped(tensor)
        if tensor._is_zerotensor():  # a derivative that is known to vanish takes no memory
            return 0
        storage = tensor.untyped_storage()
        known = storage.data_ptr() in self._seen
        self._seen[storage.data_ptr()] = storage
        return 0 if known else storage.nbytes()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def needs(work: Callable[[], object]) -> tuple[int, int]:
    """Operations of the matrix products that ``work`` calls, and bytes of its inputs and results."""
    with FlopCounterMode(display=False) as products:
        work()
    with _FirstReads() as reads:
        results = work()
    return products.get_total_flops(), reads.bytes + sum(tensor.nbytes for tensor in _tensors(results))


@dataclass(frozen=True)
class Row:
    """Medians in seconds."""

    shape: str
    task: str
    flops: int
    bytes: int
    products: float
    memory: float
    alternet: float
    eager: float

    @property
    def least(self) -> float:
        return max(self.products, self.memory)


def compare(cells: dict[str, Cell], rates: Rates) -> Row:
    works = {name: cells[name].prepare() for name in ("alternet", "eager")}
    flops, moved = needs(works["eager"])
    seconds = {name: statistics.median(runs) for name, runs in interleaved_seconds(works).items()}
    cell = cells["alternet"]
    return Row(cell.shape, cell.task, flops, moved, flops / rates.flops, moved / rates.bytes, **seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = Rates.measure()
    rows = []
    for suite, shape, task in ROWS:
        (cells,) = [c for (s, t), c in load(suite).rows().items() if s.startswith(shape) and t == task]
        rows.append(compare(cells, rates))
        print(_line(rows[-1]), flush=True)
    _write(arguments.out, rates, rows)


HEADER = (
    "| work | what | products | inputs and results | the least | alternet | of the least | eager | at most to gain |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def _line(row: Row) -> str:
    cells = [
        row.shape,
        row.task,
        f"{row.flops / 1e9:.3g} GFLOP, {row.products * 1e3:.3g} ms",
        f"{row.bytes / 2**20:.3g} MiB, {row.memory * 1e3:.3g} ms",
        f"{row.least * 1e3:.3g} ms",
        f"{row.alternet * 1e3:.3g} ms",
        f"{row.alternet / row.least:.1f}",
        f"{row.eager * 1e3:.3g} ms",
        f"{row.eager / row.least:.1f}x",
    ]
    return line(cells)


def _write(folder: Path, rates: Rates, rows: list[Row]) -> None:
    made_on = machine()
    speeds = f"{rates.flops / 1e9:.0f} GFLOP/s in a product of 2048 x 2048, {rates.bytes / 1e9:.1f} GB/s in a copy"
    content = {"machine": made_on, "rates": asdict(rates), "rows": [asdict(row) for row in rows]}
    lines = [HEADER, *map(_line, rows), "", f"{made_on}; {speeds}; float32, `python -m benchmarks.limits` remakes it."]
    print(f"\n{lines[-1]}")
    save(folder, "limits", content, "\n".join(lines))


if __name__ == "__main__":
    main()
