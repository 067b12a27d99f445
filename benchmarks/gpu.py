"""``python -m benchmarks.gpu``: every operator on a GPU, right first, then timed with CUDA events against its peers.

Every cell is compared with float64 eager PyTorch before anything is timed; a wrong answer ends the run. Times are
medians of ``triton.testing.do_bench`` (CUDA events, the L2 cache emptied between runs), the implementations in turn.
Writes benchmarks/results/gpu.md and gpu.json. ``--toy`` runs the whole path at toy sizes, on the CPU too
(``TRITON_INTERPRET=1``), where nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from alternet.kernels import use_backend

from .gpu_work import TOY, WORKLOADS, Built, Workload, works
from .measure import worst_error
from .report import RESULTS, save
from .tasks import Function, prepared

ROUNDS = 3
# Largest error relative to float64 eager's norm: rounding of the inputs' precision, times ten.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def on_triton(f: Function) -> Function:
    def call(*x: Tensor) -> Tensor:
        with use_backend("triton"):
            return f(*x)

    return call


@dataclass(frozen=True)
class Cell:
    name: str
    workload: Workload
    task: str
    dtype: torch.dtype
    device: str

    def work(self, f: Function, built: Built, dtype: torch.dtype) -> Callable[[], object]:
        """The task as a function without arguments; its inputs are rounded to the cell's dtype, then of ``dtype``."""
        return prepared(self.task, f, built.shapes, lambda t: t.to(self.dtype).to(self.device, dtype))

    def error(self) -> float:
        """Of every result, relative to its norm in float64: the worst."""
        built = self.workload.checked(self.device)
        want = self.work(built.functions["eager"], built, torch.float64)()
        got = self.work(on_triton(built.functions["alternet"]), built, self.dtype)()
        return _error(tree_leaves(got), tree_leaves(want))

    def implementations(self) -> dict[str, Callable[[], Callable[[], object]]]:
        """What makes the work of each, by name."""
        built = self.workload.timed(self.device)
        functions = works(self.task, built) | {"alternet": on_triton(built.functions["alternet"])}
        made = {name: functools.partial(self.work, f, built, self.dtype) for name, f in functions.items()}
        return made | {"torch.compile": lambda: self._compiled(built)}

    def _compiled(self, built: Built) -> Callable[[], object]:
        """Eager's, the function compiled, or the whole task where a compiled function would be run as it is."""
        torch.compiler.reset()  # what was compiled for too many shapes would run uncompiled
        backend = "inductor" if self.device == "cuda" else "aot_eager"
        eager = built.functions["eager"]
        if self.task == "jvp(grad)":
            return torch.compile(self.work(eager, built, self.dtype), dynamic=False, backend=backend)
        return self.work(torch.compile(eager, dynamic=False, backend=backend), built, self.dtype)

    def __str__(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}, {self.task}"


def _error(got: Sequence[Tensor | None], want: Sequence[Tensor | None]) -> float:
    """``worst_error``; a result that is zero or absent (None) in float64 must be so here."""
    pairs = list(zip(got, want, strict=True))
    if any(_is_zero(b) and not _is_zero(a) for a, b in pairs):
        return math.inf
    there = [(a, b) for a, b in pairs if a is not None and b is not None and not _is_zero(b)]
    return worst_error([a for a, _ in there], [b for _, b in there])


def _is_zero(x: Tensor | None) -> bool:
    return x is None or not x.any()


def check(cells: Sequence[Cell]) -> list[dict]:
    """The error of our kernels in every cell, printed as they come."""
    rows = []
    for cell in cells:
        error = cell.error()
        right = error <= TOLERANCES[cell.dtype]
        print(f"{'right' if right else 'WRONG'}  {error:.1e}  {cell}", flush=True)
        rows.append({"cell": str(cell), "error": error, "right": right})
    return rows


def compare(cell: Cell) -> dict:
    """Milliseconds and added bytes of every implementation, or how it failed. Without a GPU each runs, untimed."""
    works: dict[str, Callable[[], object]] = {}
    result: dict[str, dict] = {}
    for name, make in cell.implementations().items():
        try:
            work = make()
            result[name] = {"bytes": _added_bytes(work, cell.device), "milliseconds": []}
            works[name] = work
        except Exception as error:  # out of memory, or a peer that cannot: that is its result
            if cell.device == "cuda":
                torch.cuda.empty_cache()
            result[name] = {"failed": type(error).__name__}
    for _ in range(ROUNDS if cell.device == "cuda" else 0):
        for name, work in works.items():
            result[name]["milliseconds"].append(_milliseconds(work))
    return {"cell": str(cell), "implementations": result}


def _milliseconds(work: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return do_bench(work, return_mode="median")


def _added_bytes(work: Callable[[], object], device: str) -> int | None:
    work()  # compiles and tunes what compiles and tunes
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def markdown(rows: Sequence[dict]) -> str:
    """Ratios over alternet's time; the failure's name where an implementation failed."""
    titles = list(dict.fromkeys(name for row in rows for name in row["implementations"] if name != "alternet"))
    head = ["work", "alternet", *(f"faster than {title}" for title in titles), "added memory"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        found = row["implementations"]
        own = found["alternet"]
        lines.append(f"| {' | '.join([row['cell'], *_cells(own, [found.get(title, {}) for title in titles])])} |")
    return "\n".join(lines)


def _cells(own: dict, peers: Sequence[dict]) -> list[str]:
    if "failed" in own:
        return [own["failed"], *("" for _ in peers), ""]
    if not own["milliseconds"]:
        return ["ran", *(peer.get("failed", "ran" if peer else "") for peer in peers), ""]
    mine = statistics.median(own["milliseconds"])

    def ratio(peer: dict) -> str:
        if "milliseconds" in peer:
            return f"{statistics.median(peer['milliseconds']) / mine:.2f}x"
        return peer.get("failed", "")

    return [f"{mine:.3f} ms", *map(ratio, peers), f"{own['bytes'] / 2**20:.0f} MiB"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="toy sizes: runs the path, times nothing without a GPU")
    known = [str(dtype).removeprefix("torch.") for dtype in TOLERANCES]
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=known)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.toy:
        print("benchmarks.gpu: torch sees no GPU (--toy runs the path without one)", file=sys.stderr)
        return 1
    cells = [
        Cell(name, workload, task, getattr(torch, dtype), device)
        for name, workload in (TOY if options.toy else WORKLOADS).items()
        for task in workload.tasks
        for dtype in options.dtypes
    ]
    checks = check(cells)
    if not all(row["right"] for row in checks):
        return 1
    rows = [compare(cell) for cell in cells]
    where = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter: no speeds"
    text = f"{markdown(rows)}\n\n{where}, torch {torch.__version__}; `make bench-gpu` remakes it."
    print(text)
    save(options.out, "gpu", {"device": where, "checks": checks, "rows": rows}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
