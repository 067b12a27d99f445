"""``python -m benchmarks.limits``: how far from the machine's limits, where alternet is less than twice eager PyTorch.

Three limits are taken from what eager PyTorch does in the same work, so that nothing is counted by hand: the matrix
products that it calls, at the rate of a large product of PyTorch's on this machine (``tile_products`` passes it); every
input read once, at the rate of a large copy; and every result written once, measured, in memory as PyTorch gives it:
fresh, so that the system first clears it. The processor can read while it multiplies, but not clear. The larger of the
first two and the third are the least time of that work; eager's time over it is the most that any implementation with
these products could gain. A fused kernel computes some products anew instead of keeping their results, N² numbers: the
products that alternet makes, as PyTorch's counter of operations counts them, give the least time of its own way.

Products of these shapes are slower than large ones, and write results that are cleared first where they are fresh.
Eager's calls of them made once more with nothing between, on the same tensors, say what is left of that machine: what
an implementation could gain that took no time for all the rest. Writes benchmarks/results/limits.md and limits.json.
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
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

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
    ("model", "ViT-Ti, 32 px", "product, graph kept"),
    ("model", "ViT-Ti, 224 px", "product, graph kept"),
    ("model", "ViT-Ti, 32 px", "product, graph kept, bfloat16 autocast"),  # where the suite has it
)


@dataclass(frozen=True)
class Rates:
    """Of this machine, with the threads of the measurement: products and a copy, too large for a cache."""

    flops: float  # per second
    bytes: float  # per second

    @classmethod
    def measure(cls, dtype: torch.dtype) -> Rates:
        square = torch.randn(2048, 2048).to(dtype)
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
        tensor = _unwrapped(tensor)
        if tensor._is_zerotensor():  # a derivative that is known to vanish takes no memory
            return 0
        storage = tensor.untyped_storage()
        known = storage.data_ptr() in self._seen
        self._seen[storage.data_ptr()] = storage
        return 0 if known else storage.nbytes()


class _ProductCalls(TorchDispatchMode):
    """The matrix products and convolutions that are called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in flop_registry:
            self._calls.append((func, *tree_map_only(Tensor, _unwrapped, (args, kwargs or {}))))
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def repeat(self) -> None:
        for func, args, kwargs in self._calls:
            func(*args, **kwargs)


def _unwrapped(tensor: Tensor) -> Tensor:
    while is_functorch_wrapped_tensor(tensor):  # inside of a transform
        tensor = get_unwrapped(tensor)
    return tensor


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def operations(work: Callable[[], object]) -> int:
    """Of the matrix products that ``work`` calls."""
    with FlopCounterMode(display=False) as products:
        work()
    return products.get_total_flops()


def needs(work: Callable[[], object]) -> tuple[int, int, list[int]]:
    """Operations of the matrix products that ``work`` calls, bytes of its inputs, and of each of its results."""
    flops = operations(work)
    with _FirstReads() as reads:
        results = work()
    return flops, reads.bytes, [tensor.nbytes for tensor in _tensors(results)]


def products_alone(work: Callable[[], object]) -> Callable[[], None]:
    """A function that calls the matrix products of ``work`` again, with the tensors that it had."""
    with _ProductCalls() as calls:
        work()
    return calls.repeat


def written(sizes: list[int]) -> list[Tensor]:
    """Tensors of so many bytes, their memory used for the first time."""
    return [torch.empty(size, dtype=torch.uint8).fill_(1) for size in sizes]


@dataclass(frozen=True)
class Row:
    """Medians in seconds."""

    shape: str
    task: str
    flops: int
    own_flops: int
    read: int
    written: int
    products: float
    own_products: float
    reads: float
    results: float
    products_alone: float
    alternet: float
    eager: float

    @property
    def least(self) -> float:
        return max(self.products, self.reads) + self.results

    @property
    def own_least(self) -> float:
        """With the products that alternet makes."""
        return max(self.own_products, self.reads) + self.results


def compare(cells: dict[str, Cell], rates: Rates) -> Row:
    works = {name: cells[name].prepare() for name in ("alternet", "eager")}
    flops, read, sizes = needs(works["eager"])
    own_flops = operations(works["alternet"])
    works["products_alone"] = products_alone(works["eager"])
    works["results"] = lambda: written(sizes)
    seconds = {name: statistics.median(runs) for name, runs in interleaved_seconds(works).items()}
    cell = cells["alternet"]
    least = {"products": flops / rates.flops, "own_products": own_flops / rates.flops, "reads": read / rates.bytes}
    return Row(cell.shape, cell.task, flops, own_flops, read, sum(sizes), **least, **seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = {torch.float32: Rates.measure(torch.float32)}
    rows = []
    for suite, shape, task in ROWS:
        dtype = torch.bfloat16 if "bfloat16" in task else torch.float32
        for cells in [c for (s, t), c in load(suite).rows().items() if s.startswith(shape) and t == task]:
            if dtype not in rates:
                rates[dtype] = Rates.measure(dtype)
            rows.append(compare(cells, rates[dtype]))
            print(_line(rows[-1]), flush=True)
    _write(arguments.out, rates, rows)


HEADER = (
    "| work | what | products | inputs | results | the least | alternet's products | the least with them | alternet "
    "| of the least | of that with its own products | eager | at most to gain | eager's products alone "
    "| at most with these | gained |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _line(row: Row) -> str:
    cells = [
        row.shape,
        row.task,
        f"{row.flops / 1e9:.3g} GFLOP, {row.products * 1e3:.3g} ms",
        f"{row.read / 2**20:.3g} MiB, {row.reads * 1e3:.3g} ms",
        f"{row.written / 2**20:.3g} MiB, {row.results * 1e3:.3g} ms",
        f"{row.least * 1e3:.3g} ms",
        f"{row.own_flops / 1e9:.3g} GFLOP, {row.own_products * 1e3:.3g} ms",
        f"{row.own_least * 1e3:.3g} ms",
        f"{row.alternet * 1e3:.3g} ms",
        f"{row.alternet / row.least:.1f}",
        f"{row.alternet / row.own_least:.1f}",
        f"{row.eager * 1e3:.3g} ms",
        f"{row.eager / row.least:.1f}x",
        f"{row.products_alone * 1e3:.3g} ms" if row.flops else "",
        f"{row.eager / row.products_alone:.1f}x" if row.flops else "",
        f"{row.eager / row.alternet:.1f}x",
    ]
    return line(cells)


def _write(folder: Path, rates: dict[torch.dtype, Rates], rows: list[Row]) -> None:
    made_on = machine()
    by_name = {str(dtype).removeprefix("torch."): asdict(rate) for dtype, rate in rates.items()}
    products = " and ".join(f"{rate['flops'] / 1e9:.0f} GFLOP/s in {name}" for name, rate in by_name.items())
    copy = rates[torch.float32].bytes / 1e9
    speeds = f"products of 2048 x 2048 run at {products}, a copy at {copy:.1f} GB/s"
    content = {"machine": made_on, "rates": by_name, "rows": [asdict(row) for row in rows]}
    lines = [HEADER, *map(_line, rows), "", f"{made_on}; {speeds}; `python -m benchmarks.limits` remakes it."]
    print(f"\n{lines[-1]}")
    save(folder, "limits", content, "\n".join(lines))


if __name__ == "__main__":
    main()
